"""Images to calibrate and evaluate on: a folder, an .npz archive, generated ones, or a manifest of these."""

from deploykit.data.images.diversity import Likeness
from deploykit.data.images.manifest import write_manifest
from deploykit.data.images.open import open_images
from deploykit.data.images.selection import Batch, Images

__all__ = ["Batch", "Images", "Likeness", "open_images", "write_manifest"]
