"""Turn images into network inputs as in the model's training. Every artifact records how."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
Channels = tuple[float, float, float]
"""Red, green, blue, where black is 0 and white is 1."""

# Statistics of ImageNet's training set; timm's IMAGENET_DEFAULT_MEAN and _STD.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Normalization = Literal["imagenet", "inception"]
NORMALIZATIONS: Mapping[Normalization, tuple[Channels, Channels]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # -1 to 1; timm's IMAGENET_INCEPTION_MEAN and _STD
}
"""Mean and standard deviation used in training."""

# Pixels between the resized image and the crop.
# Source: CROP_PADDING in tensorflow/tpu, efficientnet/preprocessing.py.
CROP_PADDING_PX = 32

# The transposition that shows an image upright, by EXIF orientation.
# Source: EXIF 2.32, table 6, Orientation; names of PIL.Image.Transpose.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """A user's changes to the preprocessing that the model records; None keeps the model's value."""

    mean: Channels | None = None
    std: Channels | None = None
    crop_padding_px: int | None = None
    interpolation: Interpolation | None = None


NO_OVERRIDES = Overrides()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side, crop the centre, scale to 0..1, normalize each channel.

    Attributes:
        side_px: Side of the network's square input.
        crop_padding_px: The shorter side is resized to side_px plus this.
        mean: Subtracted from each channel.
        std: Divides each channel.
        interpolation: Resampling filter of the resize.
    """

    side_px: Annotated[int, Meta(ge=1)]
    crop_padding_px: Annotated[int, Meta(ge=0)] = CROP_PADDING_PX
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    interpolation: Interpolation = "bicubic"

    def override(self, overrides: Overrides) -> "Preprocessing":
        """Return the preprocessing with the user's changes.

        Raises:
            DeployError: A value is not usable.
        """
        given = {field.name: getattr(overrides, field.name) for field in fields(overrides)}
        for name in ("mean", "std"):  # as integers, the JSON would differ from that of equal floats
            given[name] = given[name] and tuple(map(float, given[name]))
        changed = replace(self, **{name: value for name, value in given.items() if value is not None})
        _require_usable(changed)
        return changed

    def crop(self, image: "Image") -> npt.NDArray[np.uint8]:
        """Return the square of the image that the network sees, (side, side, 3).

        An image of exactly that size is not resampled.

        Raises:
            ValueError: The image's pixels are floating-point numbers of unknown scale.
            OSError: The image can't be decoded; Pillow raises other exceptions too.
        """
        from PIL import Image

        image = _rgb(_upright(image))
        side = self.side_px
        if image.size == (side, side):
            return np.asarray(image)
        # The square of the original that remains after resizing and cropping the centre.
        square = min(image.size) * side / (side + self.crop_padding_px)
        left, top = ((length - square) / 2 for length in image.size)
        box = (left, top, left + square, top + square)
        resampling = Image.Resampling[self.interpolation.upper()]
        return np.asarray(image.resize((side, side), resampling, box=box))

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return pixels, (n, side, side, 3), as network inputs, (n, 3, side, side)."""
        values = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
        values /= np.float32(255)
        values -= np.asarray(self.mean, np.float32)[:, None, None]
        values /= np.asarray(self.std, np.float32)[:, None, None]
        return values

    def denormalize(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Return network inputs, (n, 3, side, side), as pixels, (n, side, side, 3). Inverts normalize."""
        mean, std = (np.asarray(each, np.float64)[:, None, None] for each in (self.mean, self.std))
        return np.asarray(np.rint((values * std + mean) * 255).clip(0, 255).transpose(0, 2, 3, 1), np.uint8)


def _upright(image: "Image") -> "Image":
    """Apply the EXIF orientation. Unreadable EXIF is ignored, as in any viewer."""
    from PIL import Image

    image.load()  # damaged pixels must not be mistaken for damaged EXIF
    try:
        name = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, struct.error):
        name = None
    return image if name is None else image.transpose(Image.Transpose[name])


def _rgb(image: "Image") -> "Image":
    """Convert an image to RGB as training pipelines do: with Pillow's convert("RGB"), which drops alpha.

    Two kinds need another way: convert clips 16-bit channels to the range of the low byte, and it warns
    about transparent palettes.
    """
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        if image.mode != "I" or values.max(initial=0) > 255:  # older Pillow opens a 16-bit PNG as "I"
            values >>= 8
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown scale")
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _require_usable(preprocessing: Preprocessing) -> None:
    mean, std, padding = preprocessing.mean, preprocessing.std, preprocessing.crop_padding_px
    if not all(0 <= value <= 1 for value in mean):  # NaN fails too
        raise DeployError(
            f"The mean {_text(mean)} is not between 0 and 1, the range of pixel values.",
            code="invalid-preprocessing",
            fix="divide a mean on the scale 0 to 255 by 255, for example --mean 0.485,0.456,0.406",
        )
    if not all(np.float32(value) > 0 and math.isfinite(value) for value in std):
        raise DeployError(
            f"The standard deviation {_text(std)} must be positive and finite.",
            code="invalid-preprocessing",
            fix="--std 0.229,0.224,0.225",
        )
    with np.errstate(over="ignore"):
        extremes = preprocessing.normalize(np.array([[[[0] * 3, [255] * 3]]], np.uint8))
    if not np.isfinite(extremes).all():
        raise DeployError(
            f"The standard deviation {_text(std)} is so small that inputs exceed the range of FP32.",
            code="invalid-preprocessing",
            fix="--std 0.229,0.224,0.225",
        )
    if padding < 0:
        raise DeployError(
            f"The crop padding is {padding} px; it must be 0 or more.",
            code="invalid-preprocessing",
            fix="--crop-padding 32",
        )
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise DeployError(
            f"The interpolation {preprocessing.interpolation!r} is unknown.",
            code="invalid-preprocessing",
            fix=f"use one of {', '.join(INTERPOLATIONS)}",
        )


def _text(channels: Channels) -> str:
    return ",".join(f"{value:g}" for value in channels)
