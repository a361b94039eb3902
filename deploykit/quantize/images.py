"""Calibration images: a folder, an .npz archive, or generated ones, as squares the network takes."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.errors import DeployError
from deploykit.preprocessing import Preprocessing

GENERATED = "generated"
MAX_IMAGES = 1_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})

Pixels = npt.NDArray[np.uint8]
"""One image, (side, side, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """A countable supply of images.

    Attributes:
        source: what the user named: a path, or `generated`.
        count: how many will be drawn.
    """

    source: str
    preprocessing: Preprocessing
    items: tuple[Path, ...] | Pixels | int

    @property
    def count(self) -> int:
        return self.items if isinstance(self.items, int) else len(self.items)

    def __iter__(self) -> Iterator[Pixels]:
        if isinstance(self.items, int):
            return (_dead_leaves(self.preprocessing.side_px, seed) for seed in range(self.items))
        if isinstance(self.items, tuple):
            return (_decode(path, self.preprocessing) for path in self.items)
        return (_from_array(pixels, self.preprocessing) for pixels in self.items)

    def batches(self, size: int) -> Iterator[npt.NDArray[np.float32]]:
        """Network inputs, (at most size, 3, side, side) float32."""
        images = iter(self)
        while batch := list(itertools.islice(images, size)):
            yield self.preprocessing.normalize(np.stack(batch))


def open_images(data: str | Path, preprocessing: Preprocessing, *, limit: int) -> Images:
    """Looks at what data names, without decoding it.

    Args:
        data: a folder of images at any depth, an .npz with `images` (n, height, width, 3) uint8, or
            `generated`.
        limit: draw at most this many, spread evenly over what there is.

    Raises:
        DeployError: there is nothing there, or nothing of the kind.
    """
    if not 1 <= limit <= MAX_IMAGES:
        raise DeployError(f"{limit} images are not between 1 and {MAX_IMAGES}.", fix="give --images 512")
    if not str(data):
        raise DeployError("--data names nothing.", fix="give --data a folder of images")
    if str(data) == GENERATED:
        return Images(source=GENERATED, preprocessing=preprocessing, items=limit)
    path = Path(data)
    if path.is_dir():
        items: tuple[Path, ...] | Pixels = _spread(_image_files(path), limit)
    elif path.suffix == ".npz":
        pixels = _read_archive(path)
        items = pixels[np.linspace(0, len(pixels), min(limit, len(pixels)), endpoint=False, dtype=int)]
    elif path.exists():
        raise DeployError(
            f"{path} is neither a folder nor an .npz archive.", fix="give the folder that holds the images"
        )
    else:
        raise DeployError(f"There is no folder {path}.", fix="give --data an existing folder of images")
    return Images(source=str(data), preprocessing=preprocessing, items=items)


def _image_files(folder: Path) -> tuple[Path, ...]:
    files = tuple(
        sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    )
    if not files:
        raise DeployError(
            f"{folder} holds no images.", fix=f"give a folder with {', '.join(sorted(SUFFIXES))} files"
        )
    return files


def _spread(files: tuple[Path, ...], limit: int) -> tuple[Path, ...]:
    """limit of the files at even distances, so that no class of a sorted folder is left out."""
    count = min(limit, len(files))
    return tuple(files[index * len(files) // count] for index in range(count))


def _read_archive(path: Path) -> Pixels:
    import zipfile
    import zlib

    try:
        with np.load(path, allow_pickle=False) as archive:
            images: Pixels = archive["images"]
    except FileNotFoundError as error:
        raise DeployError(f"There is no file {path}.", fix="give --data an existing archive") from error
    except (KeyError, ValueError, TypeError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DeployError(
            f"{path} holds no readable array named images.", fix="save it with numpy.savez"
        ) from error
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not images.size:
        raise DeployError(
            f"The images in {path} are {images.dtype} {images.shape}.",
            fix="save them as uint8 (n, height, width, 3)",
        )
    return images


def _decode(path: Path, preprocessing: Preprocessing) -> Pixels:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return preprocessing.crop(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DeployError(f"{path} is not a readable image.", fix="remove it, or mend it") from error


def _from_array(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    from PIL import Image

    return preprocessing.crop(Image.fromarray(pixels))


def _dead_leaves(side_px: int, seed: int) -> Pixels:
    """Overlapping discs of random colour, their radii distributed as r^-3: natural images' statistics.

    References:
        Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 41, 2001.
    """
    generator = np.random.default_rng(seed)
    image = np.zeros((side_px, side_px, 3), np.uint8)
    rows, columns = np.ogrid[:side_px, :side_px]
    smallest, largest = side_px / 50, side_px / 2
    for _ in range(200):
        quantile = generator.random()
        radius = (smallest**-2 + quantile * (largest**-2 - smallest**-2)) ** -0.5
        row, column = generator.random(2) * side_px
        inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        image[inside] = generator.integers(0, 256, 3)
    return image
