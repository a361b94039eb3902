"""A folder of images, flat or with one subfolder per class."""

import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from deploykit.data.images.decode import decode
from deploykit.data.images.reader import DecodeJob
from deploykit.data.preprocessing import Preprocessing
from deploykit.util.array_types import Labels
from deploykit.util.atomic_files import file_sha256
from deploykit.util.errors import DeployError
from deploykit.util.prefetch import prefetch, worker_count

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})
_NO_DIGEST = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Image files in a folder.

    Attributes:
        root: The folder.
        names: The paths of the files relative to root, with slashes.
    """

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Sequence[int]) -> "ImageFolder":
        """Return a reader of these images only."""
        return replace(self, names=tuple(self.names[index] for index in indices))

    def digest(self) -> str:
        """Return the SHA-256 of the lines that `sha256sum` prints for the files, in order."""
        total = hashlib.sha256()
        jobs = (partial(_digest, self.root / name) for name in self.names)
        for name, future in zip(self.names, prefetch(jobs, window=2 * worker_count()), strict=True):
            total.update(os.fsencode(f"{future.result()}  {name}\n"))
        return total.hexdigest()

    def decode_jobs(self, preprocessing: Preprocessing) -> Generator[DecodeJob, None, None]:
        yield from (partial(decode, self.root / name, preprocessing) for name in self.names)


def open_image_folder(root: str | Path) -> ImageFolder:
    """List all image files under root, sorted, without opening them.

    Hidden files and folders, whose names start with a dot, are ignored. Links are followed.

    Raises:
        DeployError: There are no images, or a folder can't be read.
    """
    root = Path(root)
    try:
        names = sorted(_walk(root), key=lambda name: name.split("/"))
    except OSError as error:
        raise DeployError(
            f"{error.filename or root} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="check the folder's permissions",
        ) from error
    if not names:
        raise DeployError(
            f"{root} contains no images.",
            code="images-missing",
            fix=f"name a folder that contains {', '.join(sorted(IMAGE_SUFFIXES))} files",
        )
    return ImageFolder(root=root, names=tuple(names))


def class_labels(folder: ImageFolder) -> tuple[Labels, tuple[str, ...]] | tuple[None, None]:
    """Return the labels and classes of a folder with one subfolder per class.

    There must be at least two subfolders, and every image must be directly in one. A label is the index of
    the image's subfolder among the sorted names, as in torchvision's ImageFolder.

    Returns:
        The labels, (n,), and the names of the classes; or None and None.
    """
    if any(name.count("/") != 1 for name in folder.names):
        return None, None
    classes = sorted(each.name for each in folder.root.iterdir() if each.is_dir() and each.name[0] != ".")
    if len(classes) < 2:
        return None, None
    places = {name: place for place, name in enumerate(classes)}
    labels = np.array([places[name.partition("/")[0]] for name in folder.names], np.int64)
    return labels, tuple(classes)


def _walk(root: Path) -> Iterator[str]:
    """Yield image files relative to root. A folder that several links lead to is visited once."""
    waiting, seen = [""], set()
    while waiting:
        prefix = waiting.pop()
        status = (root / prefix).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / prefix) as entries:
            shown = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda each: each.name)
        for entry in shown:
            if entry.is_dir():
                waiting.append(f"{prefix}{entry.name}/")
            elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
                yield prefix + entry.name


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:  # the image is still drawn, and --skip-bad may skip it
        return _NO_DIGEST
