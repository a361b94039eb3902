"""Image -> network input, as the model was trained to see it. Recorded in every artifact."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta

if TYPE_CHECKING:
    from PIL.Image import Image

# Statistics of ImageNet's training set; timm's IMAGENET_DEFAULT_MEAN and _STD.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Pixels between the resized image and the crop.
# Source: CROP_PADDING in tensorflow/tpu, efficientnet/preprocessing.py.
CROP_PADDING_PX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side, crop the centre, scale to 0..1, normalize by channel.

    Attributes:
        side_px: side of the square the network takes.
        crop_padding_px: the shorter side is resized to side_px plus this, bicubic.
    """

    side_px: Annotated[int, Meta(ge=1)]
    crop_padding_px: Annotated[int, Meta(ge=0)] = CROP_PADDING_PX
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def crop(self, image: "Image") -> npt.NDArray[np.uint8]:
        """The square of the image the network sees, (side, side, 3); an image of that size stays as it is."""
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # which convert would clip at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB")
        side = self.side_px
        if image.size == (side, side):
            return np.asarray(image)
        # The square of the original that a resize and a crop of its centre would leave.
        square = min(image.size) * side / (side + self.crop_padding_px)
        left, top = ((length - square) / 2 for length in image.size)
        box = (left, top, left + square, top + square)
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(n, side, side, 3) uint8 -> (n, 3, side, side) float32."""
        mean = np.asarray(self.mean, np.float32)
        std = np.asarray(self.std, np.float32)
        return np.ascontiguousarray(((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))
