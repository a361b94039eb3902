"""Image -> network input, as the model was trained to see it. Recorded in every artifact."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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

    side_px: int
    crop_padding_px: int = CROP_PADDING_PX
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Preprocessing":
        fields = json.loads(text)
        return Preprocessing(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})

    def summary(self) -> Mapping[str, object]:
        return asdict(self)

    def crop(self, image: "Image") -> npt.NDArray[np.uint8]:
        """The square of the image the network sees, (side, side, 3); an image of that size stays as it is."""
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(image).convert("RGB")
        if image.size == (self.side_px, self.side_px):
            return np.asarray(image)
        ratio = (self.side_px + self.crop_padding_px) / min(image.size)
        width, height = (max(self.side_px, round(length * ratio)) for length in image.size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.side_px) // 2, (height - self.side_px) // 2
        return np.asarray(resized.crop((left, top, left + self.side_px, top + self.side_px)))

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(n, side, side, 3) uint8 -> (n, 3, side, side) float32."""
        mean = np.asarray(self.mean, np.float32)
        std = np.asarray(self.std, np.float32)
        return np.ascontiguousarray(((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))
