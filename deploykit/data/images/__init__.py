"""Images for calibration and evaluation: a folder, an .npz archive, generated ones, or a manifest."""

from deploykit.data.images.diversity import DiversityCheck
from deploykit.data.images.manifest import write_image_manifest
from deploykit.data.images.open import open_images
from deploykit.data.images.selection import ImageBatch, Images

__all__ = ["DiversityCheck", "ImageBatch", "Images", "open_images", "write_image_manifest"]
