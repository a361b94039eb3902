"""The targets that a network has to meet."""

import math
from dataclasses import dataclass

from deploykit.networks.families.family import FRACTION_DIGITS
from deploykit.util.errors import DeployError

_EXAMPLE = "give --max-latency 10ms or --min-throughput 500"


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Bounds on a network; None means no bound.

    Attributes:
        max_latency_ms: Largest latency of one batch.
        min_images_per_s: Smallest throughput of consecutive batches.
        max_memory_bytes: Largest size of weights and activations together.
        min_accuracy: Smallest published accuracy, as a fraction.

    Raises:
        DeployError: There is neither a latency nor a throughput target, or a target is out of range.
    """

    max_latency_ms: float | None = None
    min_images_per_s: float | None = None
    max_memory_bytes: float | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        if self.max_latency_ms is None and self.min_images_per_s is None:
            raise DeployError(
                "fit needs a latency or a throughput target.", code="target-missing", fix=_EXAMPLE
            )
        bounds = (self.max_latency_ms, self.min_images_per_s, self.max_memory_bytes)
        if not all(0 < value < math.inf for value in bounds if value is not None):
            raise DeployError(
                "A target must be greater than zero and finite.", code="invalid-target", fix=_EXAMPLE
            )
        if self.min_accuracy is not None and not 0 < self.min_accuracy < 1:
            raise DeployError(
                f"An accuracy of {100 * self.min_accuracy:g} % is not between 0 and 100 %.",
                code="invalid-accuracy-target",
                fix="give --min-accuracy 80%",
            )

    def are_met(self, *, latency_ms: float, images_per_s: float) -> bool:
        """Return whether the latency and throughput targets are met."""
        return self.is_fast_enough(latency_ms) and self.is_throughput_enough(images_per_s)

    def is_fast_enough(self, latency_ms: float) -> bool:
        """Return whether the latency target is met."""
        return self.max_latency_ms is None or latency_ms <= self.max_latency_ms

    def is_throughput_enough(self, images_per_s: float) -> bool:
        """Return whether the throughput target is met."""
        return self.min_images_per_s is None or images_per_s >= self.min_images_per_s

    def is_small_enough(self, memory_bytes: float) -> bool:
        """Return whether the memory target is met."""
        return self.max_memory_bytes is None or memory_bytes <= self.max_memory_bytes

    def is_accurate_enough(self, accuracy: float | None) -> bool:
        """Return whether the accuracy target is met; an unknown accuracy meets none."""
        return self.min_accuracy is None or (
            accuracy is not None and accuracy >= round(self.min_accuracy, FRACTION_DIGITS)
        )
