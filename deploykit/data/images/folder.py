"""A folder of images, flat or with one folder a class."""

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
    """Image files.

    Attributes:
        root: the folder.
        names: of the files, relative to it, with slashes.
    """

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Sequence[int]) -> "ImageFolder":
        return replace(self, names=tuple(self.names[index] for index in indices))

    def digest(self) -> str:
        """Of the lines that `sha256sum` prints for the files, in their order."""
        total = hashlib.sha256()
        jobs = (partial(_digest, self.root / name) for name in self.names)
        for name, future in zip(self.names, prefetch(jobs, window=2 * worker_count()), strict=True):
            total.update(os.fsencode(f"{future.result()}  {name}\n"))
        return total.hexdigest()

    def decode_jobs(self, preprocessing: Preprocessing) -> Generator[DecodeJob, None, None]:
        yield from (partial(decode, self.root / name, preprocessing) for name in self.names)


def open_image_folder(root: Path) -> ImageFolder:
    """All the images under root, sorted, without looking into them.

    What is hidden, by a dot before its name, is passed over; links are followed.

    Raises:
        DeployError: there are none, or a folder can't be read.
    """
    try:
        names = sorted(_walk(root), key=lambda name: name.split("/"))
    except OSError as error:
        raise DeployError(
            f"{error.filename or root} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="give a folder you may read",
        ) from error
    if not names:
        raise DeployError(
            f"{root} holds no images.",
            code="images-missing",
            fix=f"give a folder with {', '.join(sorted(IMAGE_SUFFIXES))} files",
        )
    return ImageFolder(root=root, names=tuple(names))


def class_labels(folder: ImageFolder) -> tuple[Labels, tuple[str, ...]] | tuple[None, None]:
    """Labels and classes of a folder that has two folders or more and every image directly in one.

    A label is the place of the image's folder among all the sorted names, as torchvision's ImageFolder
    counts them.

    Returns:
        labels (n,), and classes; or None twice.
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
    """Names of image files, relative to root; each folder once, however links lead to it."""
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
    except OSError:  # it is drawn all the same, and may be passed over as bad
        return _NO_DIGEST
