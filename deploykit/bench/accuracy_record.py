"""How well a model classifies, as a record: what latency is weighed against."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from deploykit import __version__
from deploykit.stats.accuracy_metrics import Proportion
from deploykit.util.types import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRecord:
    """Attributes:
    model: name of the file that was evaluated; sha256: its digest.
    onnx_sha256: digest of the FP32 model it comes from, its own where it is that one.
    data: what it was evaluated on; images: how many.
    data_sha256: of their labels, and of how they were prepared.
    images_sha256: of the images; None in records from before that was taken.
    top1: as a fraction.
    ran_by: what computed it, in words.
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
            raise ValueError("its top-1 is no fraction within its interval")

    @property
    def name(self) -> str:
        """Of its file, before the moment."""
        return f"{self.model}.accuracy"
