"""Where the latency of a network comes from: measured here, recorded elsewhere, or predicted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from deploykit.gpu_catalog.gpus import THIS_MACHINE, Gpu, find_gpu
from deploykit.networks.member import Member
from deploykit.util.errors import DeployError
from deploykit.util.local_gpu import local_gpu
from deploykit.util.types import Precision

DEFAULT_FOLDER = Path("records")
"""Where measurements of this machine are kept."""

Evidence = Literal["measured", "recorded", "predicted"]
"""How a figure was obtained, the most trustworthy first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of one batch, and throughput of consecutive batches.

    Attributes:
        expected_ms, low_ms, high_ms: A prediction has the middle and the ends of its interval. Measured and
            recorded latencies have the requested percentile in all three.
        images_per_s, low_images_per_s: Expected throughput and the unfavourable end of its interval. Measured
            and recorded throughput counts the total time of all batches, whatever the percentile.
        evidence: How the figures were obtained.
        is_rough: Whether there are too few samples to bound the percentile.
        has_published_data: Whether latencies at this precision are among the published figures behind a
            prediction; True for measured and recorded latencies.
    """

    expected_ms: float
    low_ms: float
    high_ms: float
    images_per_s: float
    low_images_per_s: float
    evidence: Evidence
    is_rough: bool = False
    has_published_data: bool = True


class LatencySource(Protocol):
    """Answers how long one batch of a network takes on one machine."""

    @property
    def title(self) -> str:
        """Name of the machine or GPU, for people to read."""
        ...

    @property
    def is_measuring(self) -> bool:
        """Whether a latency takes seconds to obtain, because it is measured."""
        ...

    @property
    def candidate_precisions(self) -> tuple[Precision, ...]:
        """Precisions worth comparing on this machine, the default first."""
        ...

    def resolve_precision(self, requested: Precision | None) -> Precision:
        """Return the requested precision, or the default one.

        Raises:
            DeployError: The machine does not support that precision.
        """
        ...

    def find_latency(self, member: Member, *, precision: Precision, batch: int) -> Latency:
        """Return the latency of a batch of `batch` images."""
        ...


def find_absent_gpu(name: str) -> Gpu | None:
    """Return the GPU to predict for; None if the name means this machine.

    Args:
        name: A GPU's name, `local` or `cpu`.

    Raises:
        DeployError: No known GPU has that name.
    """
    if name.lower() in THIS_MACHINE:
        return None
    known, here = find_gpu(name), local_gpu()
    try:
        is_here = here is not None and find_gpu(here.name) == known
    except DeployError:  # the local GPU is not in the catalog
        is_here = False
    return None if is_here else known
