"""An .npz archive of images and labels, read row by row so that it never has to fit in memory."""

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
    NotImplementedError,  # a compression that this Python does not support
    RuntimeError,  # encrypted
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageArchive:
    """Images of an .npz archive.

    Attributes:
        path: The archive.
        shape: Shape of the whole array, (n, height, width, 3).
        rows: Indices of the images, ascending.
    """

    path: Path
    shape: tuple[int, int, int, int]
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The row of each image, as text."""
        return tuple(map(str, self.rows))

    def select(self, indices: Sequence[int]) -> "ImageArchive":
        """Return a reader of these images only."""
        return replace(self, rows=tuple(self.rows[index] for index in indices))

    def digest(self) -> str:
        """Return the SHA-256 of the archive's bytes and the rows.

        Raises:
            DeployError: The archive can no longer be read.
        """
        with _explain_errors(self.path):
            total = hashlib.sha256(file_sha256(self.path).encode())
        total.update(np.array(self.rows, "<i8").tobytes())
        return total.hexdigest()

    def decode_jobs(self, preprocessing: Preprocessing) -> Generator[DecodeJob, None, None]:
        """Yield one job per image, see ImageReader.

        Raises:
            DeployError: From the generator: the archive is damaged, which may show only at its end.
        """
        row_bytes = math.prod(self.shape[1:])
        with (
            _explain_errors(self.path),
            zipfile.ZipFile(self.path) as archive,
            archive.open(_IMAGES) as member,
        ):
            if read_npy_header(member)[0] != self.shape:
                raise ValueError("changed since it was opened")
            at = 0
            for row in self.rows:
                skip_bytes(member, (row - at) * row_bytes)
                at = row + 1
                yield partial(_crop, read_exactly(member, row_bytes), self.shape[1:], preprocessing)
            while member.read(NPY_CHUNK_BYTES):  # to the end, where zipfile compares the checksum
                pass


def open_image_archive(path: str | Path) -> OpenedImages:
    """Return all the images of an archive, without reading them, and its labels and classes if present.

    Raises:
        DeployError: The file is not an archive, is damaged, or has arrays of other shapes or types.
    """
    path = Path(path)
    with _explain_errors(path), zipfile.ZipFile(path) as archive:
        with archive.open(_IMAGES) as member:
            shape, dtype, fortran_order = read_npy_header(member)
            header_bytes = member.tell()
        _require_images(path, shape, dtype, fortran_order=fortran_order)
        if archive.getinfo(_IMAGES).file_size != header_bytes + math.prod(shape):
            raise ValueError("truncated")
        names = archive.namelist()
        labels = _labels(path, archive, shape[0]) if _LABELS in names else None
        classes = _classes(path, archive) if _CLASSES in names else None
    if labels is not None:
        _require_in_range(path, labels, classes)
    n, height, width, channels = shape
    return ImageArchive(path=path, shape=(n, height, width, channels), rows=range(n)), labels, classes


@contextlib.contextmanager
def _explain_errors(path: Path, member: str = _IMAGES) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DeployError(
            f"{path} does not exist.", code="file-not-found", fix="name an existing archive with --data"
        ) from error
    except PermissionError as error:
        raise DeployError(
            f"{path} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="check the file's permissions",
        ) from error
    except _UNREADABLE as error:
        raise DeployError(
            f"{path} has no readable array named {Path(member).stem}.",
            code="archive-invalid",
            fix="save the arrays with numpy.savez",
        ) from error


def _require_images(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, fortran_order: bool
) -> None:
    from PIL import Image

    if dtype.hasobject:
        raise ValueError("pickled objects, which could run code when read")
    if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8 or 0 in shape:
        raise DeployError(
            f"The images in {path} are {dtype} of shape {shape}.",
            code="archive-invalid",
            fix="save them as uint8 of shape (n, height, width, 3)",
        )
    if fortran_order:
        raise DeployError(
            f"The images in {path} are in Fortran order.",
            code="archive-invalid",
            fix="save numpy.ascontiguousarray(images)",
        )
    if Image.MAX_IMAGE_PIXELS is not None and shape[1] * shape[2] > Image.MAX_IMAGE_PIXELS:
        raise DeployError(
            f"The images in {path} have {shape[2]} x {shape[1]} pixels, more than Pillow's limit.",
            code="archive-invalid",
            fix="save smaller images",
        )


def _labels(path: Path, archive: zipfile.ZipFile, count: int) -> Labels:
    with _explain_errors(path, _LABELS), archive.open(_LABELS) as member:
        shape, dtype, _ = read_npy_header(member)
    if shape != (count,) or not np.issubdtype(dtype, np.integer):
        raise DeployError(
            f"The labels in {path} are {dtype} of shape {shape}, for {count} images.",
            code="archive-invalid",
            fix="save one integer per image, or omit the labels",
        )
    with _explain_errors(path, _LABELS), archive.open(_LABELS) as member:
        return np.asarray(np.lib.format.read_array(member, allow_pickle=False)).astype(np.int64)


def _classes(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    with _explain_errors(path, _CLASSES), archive.open(_CLASSES) as member:
        shape, dtype, _ = read_npy_header(member)
    if len(shape) != 1 or dtype.kind != "U":
        raise DeployError(
            f"The classes in {path} are {dtype} of shape {shape}.",
            code="archive-invalid",
            fix="save one name per class: numpy.array(names)",
        )
    with _explain_errors(path, _CLASSES), archive.open(_CLASSES) as member:
        return tuple(np.lib.format.read_array(member, allow_pickle=False).tolist())


def _require_in_range(path: Path, labels: Labels, classes: tuple[str, ...] | None) -> None:
    below = len(classes) if classes is not None else np.inf
    wrong = np.flatnonzero((labels < 0) | (labels >= below))
    if wrong.size:
        allowed = "0 or more" if classes is None else f"from 0 to {len(classes) - 1}"
        raise DeployError(
            f"Label {labels[wrong[0]]} of image {wrong[0]} in {path} is not {allowed}.",
            code="label-invalid",
            fix="number the classes from 0",
        )


def _crop(content: bytes, shape: tuple[int, int, int], preprocessing: Preprocessing) -> Pixels:
    from PIL import Image

    return preprocessing.crop(Image.fromarray(np.frombuffer(content, np.uint8).reshape(shape)))
