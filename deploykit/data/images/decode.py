"""One image file -> the square of it that the network sees."""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from deploykit.data.images.reader import Pixels
from deploykit.data.preprocessing import Preprocessing
from deploykit.util.errors import DeployError

# What Pillow's plugins let through from damaged files; and warnings, where the program has made them errors.
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


def decode(path: Path, preprocessing: Preprocessing) -> Pixels:
    """The file's image, or its first one, cropped.

    Raises:
        DeployError: it is no image, damaged, or larger than Pillow's limit for decompression.
    """
    return decode_stream(path, str(path), preprocessing)


def decode_stream(
    source: Path | BinaryIO,
    name: str,
    preprocessing: Preprocessing,
    *,
    formats: tuple[str, ...] | None = None,
) -> Pixels:
    """As decode, of a file or of what has been read of one.

    Args:
        name: what to call it.
        formats: Pillow's names of those it may be in; default all.
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
            fix="remove it, mend it, or pass over such files with --skip-bad",
        ) from error


def _require_sane(width: int, height: int) -> None:
    """Refuses what Pillow would only warn of."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(f"{width} x {height} pixels are more than {limit}")


def _reason(error: BaseException) -> str:
    """Pillow's words, without the path that the sentence has already."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "in no format that Pillow knows"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too many pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().rstrip(".").partition("\n")[0] or type(error).__name__
