"""A record of how accurately a model classifies; latency is weighed against it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from deploykit import __version__
from deploykit.stats.proportion import Proportion
from deploykit.util.types import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRecord:
    """A measurement of top-1 accuracy.

    Attributes:
        model: Name of the file that was evaluated.
        sha256: Digest of that file.
        onnx_sha256: Digest of the FP32 model it comes from; its own digest if it is that model.
        data: What it was evaluated on.
        images: How many images.
        data_sha256: Digest of the labels and of the preprocessing.
        images_sha256: Digest of the images; None in older records.
        top1: Top-1 accuracy, 0 to 1.
        ran_by: What computed it, in words.
        started: UTC, ISO 8601.
    """

    model: str
    sha256: str
    onnx_sha256: str | None
    precision: Precision
    data: str
    images: Annotated[int, Meta(ge=1, le=10**12)]
    data_sha256: str
    top1: Proportion
    ran_by: str
    started: str
    images_sha256: str | None = None
    deploykit_version: str = __version__
    kind: Literal["accuracy"] = "accuracy"
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        if not 0 <= self.top1.low <= self.top1.value <= self.top1.high <= 1:
            raise ValueError("top1 must be from 0 to 1 and within its interval")

    @property
    def name(self) -> str:
        """Name of its file, without the time."""
        return f"{self.model}.accuracy"
