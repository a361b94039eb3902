"""Decode an image file into the square that the network sees."""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from deploykit.data.images.reader import Pixels
from deploykit.data.preprocessing import Preprocessing
from deploykit.util.errors import DeployError

# What Pillow's plugins raise for damaged files, and warnings that the program has turned into errors.
_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
    Warning,
)


def decode(path: str | Path, preprocessing: Preprocessing) -> Pixels:
    """Return the cropped image of a file, or the first of its images.

    Raises:
        DeployError: The file is not an image, is damaged, or exceeds Pillow's decompression limit.
    """
    return decode_stream(Path(path), str(path), preprocessing)


def decode_stream(
    source: Path | BinaryIO,
    name: str,
    preprocessing: Preprocessing,
    *,
    formats: tuple[str, ...] | None = None,
) -> Pixels:
    """Return the cropped image of a file or a stream, see decode.

    Args:
        source: The file or stream.
        name: How error messages call it.
        preprocessing: The crop to make.
        formats: Pillow's names of the formats to accept; default all.

    Raises:
        DeployError: See decode.
    """
    from PIL import Image

    try:
        with Image.open(source, formats=formats) as image:
            _require_sane(*image.size)
            return preprocessing.crop(image)
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise DeployError(
            f"{name} is not a readable image ({_reason(error)}).",
            code="image-unreadable",
            fix="remove or repair the file, or skip unreadable files with --skip-bad",
        ) from error


def _require_sane(width: int, height: int) -> None:
    """Reject sizes that Pillow only warns about."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(f"{width} x {height} pixels exceed the limit of {limit}")


def _reason(error: BaseException) -> str:
    """Return Pillow's reason, without the path, which the message already has."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too many pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().rstrip(".").partition("\n")[0] or type(error).__name__
