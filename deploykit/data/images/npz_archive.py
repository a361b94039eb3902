"""An .npz of images and labels, read row by row: it never stands in memory as a whole."""

import contextlib
import hashlib
import math
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from deploykit.data.images.npy_stream import NPY_CHUNK_BYTES, read_exactly, read_npy_header, skip_bytes
from deploykit.data.images.reader import DecodeJob, OpenedImages, Pixels
from deploykit.data.preprocessing import Preprocessing
from deploykit.util.array_types import Labels
from deploykit.util.atomic_files import file_sha256
from deploykit.util.errors import DeployError

_IMAGES, _LABELS, _CLASSES = "images.npy", "labels.npy", "classes.npy"
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    SyntaxError,
    NotImplementedError,  # compressed in a way that this Python can't undo
    RuntimeError,  # encrypted
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageArchive:
    """Images of an .npz archive, read row by row.

    Attributes:
        shape: of all the images there are, (n, height, width, 3).
        rows: which of them, ascending.
    """

    path: Path
    shape: tuple[int, int, int, int]
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(str, self.rows))

    def select(self, indices: Sequence[int]) -> "ImageArchive":
        return replace(self, rows=tuple(self.rows[index] for index in indices))

    def digest(self) -> str:
        """Of the archive's bytes and the rows.

        Raises:
            DeployError: it can't be read any more.
        """
        with _explained(self.path):
            total = hashlib.sha256(file_sha256(self.path).encode())
        total.update(np.array(self.rows, "<i8").tobytes())
        return total.hexdigest()

    def decode_jobs(self, preprocessing: Preprocessing) -> Generator[DecodeJob, None, None]:
        """As Supply says.

        Raises:
            DeployError: from the generator: the archive is damaged, of which its end is part.
        """
        row_bytes = math.prod(self.shape[1:])
        with _explained(self.path), zipfile.ZipFile(self.path) as archive, archive.open(_IMAGES) as member:
            if read_npy_header(member)[0] != self.shape:
                raise ValueError("changed since it was opened")
            at = 0
            for row in self.rows:
                skip_bytes(member, (row - at) * row_bytes)
                at = row + 1
                yield partial(_crop, read_exactly(member, row_bytes), self.shape[1:], preprocessing)
            while member.read(NPY_CHUNK_BYTES):  # to the end, where zip compares its checksum
                pass


def open_image_archive(path: Path) -> OpenedImages:
    """All the images of an archive, without reading them; its labels and its classes, if it has them.

    Raises:
        DeployError: it is none, damaged, or of other shapes and types.
    """
    with _explained(path), zipfile.ZipFile(path) as archive:
        with archive.open(_IMAGES) as member:
            shape, dtype, columns_first = read_npy_header(member)
            header_bytes = member.tell()
        _require_images(path, shape, dtype, columns_first=columns_first)
        if archive.getinfo(_IMAGES).file_size != header_bytes + math.prod(shape):
            raise ValueError("cut short")
        names = archive.namelist()
        labels = _labels(path, archive, shape[0]) if _LABELS in names else None
        classes = _classes(path, archive) if _CLASSES in names else None
    if labels is not None:
        _require_in_range(path, labels, classes)
    n, height, width, channels = shape
    return ImageArchive(path=path, shape=(n, height, width, channels), rows=range(n)), labels, classes


@contextlib.contextmanager
def _explained(path: Path, member: str = _IMAGES) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DeployError(
            f"There is no file {path}.", code="file-not-found", fix="give --data an existing archive"
        ) from error
    except PermissionError as error:
        raise DeployError(
            f"{path} can't be read: {error.strerror}.", code="file-unreadable", fix="give a file you may read"
        ) from error
    except _UNREADABLE as error:
        raise DeployError(
            f"{path} holds no readable array named {Path(member).stem}.",
            code="archive-invalid",
            fix="save it with numpy.savez",
        ) from error


def _require_images(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, columns_first: bool
) -> None:
    from PIL import Image

    if dtype.hasobject:
        raise ValueError("pickles, which run code when they are read")
    if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8 or 0 in shape:
        raise DeployError(
            f"The images in {path} are {dtype} {shape}.",
            code="archive-invalid",
            fix="save them as uint8 (n, height, width, 3)",
        )
    if columns_first:
        raise DeployError(
            f"The images in {path} are in Fortran's order.",
            code="archive-invalid",
            fix="save them through numpy.ascontiguousarray, one image after the other",
        )
    if Image.MAX_IMAGE_PIXELS is not None and shape[1] * shape[2] > Image.MAX_IMAGE_PIXELS:
        raise DeployError(
            f"The images in {path} are of {shape[2]} x {shape[1]} pixels.",
            code="archive-invalid",
            fix="save smaller ones",
        )


def _labels(path: Path, archive: zipfile.ZipFile, count: int) -> Labels:
    with _explained(path, _LABELS), archive.open(_LABELS) as member:
        shape, dtype, _ = read_npy_header(member)
    if shape != (count,) or not np.issubdtype(dtype, np.integer):
        raise DeployError(
            f"The labels in {path} are {dtype} {shape}, of {count} images.",
            code="archive-invalid",
            fix="save one integer an image, or leave the labels out",
        )
    with _explained(path, _LABELS), archive.open(_LABELS) as member:
        return np.asarray(np.lib.format.read_array(member, allow_pickle=False)).astype(np.int64)


def _classes(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    with _explained(path, _CLASSES), archive.open(_CLASSES) as member:
        shape, dtype, _ = read_npy_header(member)
    if len(shape) != 1 or dtype.kind != "U":
        raise DeployError(
            f"The classes in {path} are {dtype} {shape}.",
            code="archive-invalid",
            fix="save one name a class: numpy.array(names)",
        )
    with _explained(path, _CLASSES), archive.open(_CLASSES) as member:
        return tuple(np.lib.format.read_array(member, allow_pickle=False).tolist())


def _require_in_range(path: Path, labels: Labels, classes: tuple[str, ...] | None) -> None:
    below = len(classes) if classes is not None else np.inf
    wrong = np.flatnonzero((labels < 0) | (labels >= below))
    if wrong.size:
        of = "" if classes is None else f" of {len(classes)} classes"
        raise DeployError(
            f"Label {labels[wrong[0]]} of image {wrong[0]} in {path} is no class{of}.",
            code="label-invalid",
            fix="count the classes from 0",
        )


def _crop(content: bytes, shape: tuple[int, int, int], preprocessing: Preprocessing) -> Pixels:
    from PIL import Image

    return preprocessing.crop(Image.fromarray(np.frombuffer(content, np.uint8).reshape(shape)))
