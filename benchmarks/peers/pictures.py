"""Calibration images as every peer reads them: as deploykit picks, decodes and normalizes them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Statistics of ImageNet's training set; timm's IMAGENET_DEFAULT_MEAN and _STD.
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)

Array = npt.NDArray[np.float32]


def batches(data: Path, count: int, size: int) -> Iterator[Array]:
    """Network inputs, (at most size, 3, side, side), of count images spread evenly over the data.

    Args:
        data: a folder of PNG files of the network's size, or an .npz with `images` (n, side, side, 3).
    """
    pixels = _from_folder(data, count) if data.is_dir() else _from_archive(data, count)
    batch: list[npt.NDArray[np.uint8]] = []
    for image in pixels:
        batch.append(image)
        if len(batch) == size:
            yield normalize(np.stack(batch))
            batch = []
    if batch:
        yield normalize(np.stack(batch))


def _from_folder(folder: Path, count: int) -> Iterator[npt.NDArray[np.uint8]]:
    from PIL import Image

    files = sorted(folder.glob("*.png"))
    for index in _spread(len(files), count):
        with Image.open(files[index]) as image:
            yield np.asarray(image)


def _from_archive(path: Path, count: int) -> Iterator[npt.NDArray[np.uint8]]:
    with np.load(path) as archive:
        images = archive["images"]
    return (images[index] for index in _spread(len(images), count))


def _spread(total: int, count: int) -> list[int]:
    count = min(count, total)
    return [index * total // count for index in range(count)]


def normalize(pixels: npt.NDArray[np.uint8]) -> Array:
    """(n, side, side, 3) uint8 -> (n, 3, side, side) float32."""
    return np.ascontiguousarray(((pixels / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2))
