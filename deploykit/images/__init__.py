"""Images to calibrate and evaluate on: a folder, an .npz archive, generated ones, or a manifest of these."""

from deploykit.images.alike import Likeness
from deploykit.images.drawn import Batch, Images
from deploykit.images.manifest import write_manifest
from deploykit.images.source import open_images

__all__ = ["Batch", "Images", "Likeness", "open_images", "write_manifest"]
