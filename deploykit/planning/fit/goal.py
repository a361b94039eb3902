"""What a network has to meet."""

import math
from dataclasses import dataclass

from deploykit.networks.families.family import FRACTION_DIGITS
from deploykit.util.errors import DeployError

_EXAMPLE = "give --max-latency 10ms or --min-throughput 500"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Targets; None where there is none.

    Attributes:
        max_latency_ms: a batch takes at most this.
        min_images_per_s: a stream of batches, one after another, makes at least this.
        max_memory_bytes: weights and activations take at most this.
        min_accuracy: the published accuracy is at least this fraction.
    """

    max_latency_ms: float | None = None
    min_images_per_s: float | None = None
    max_memory_bytes: float | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        if self.max_latency_ms is None and self.min_images_per_s is None:
            raise DeployError("There is no target to fit.", code="target-missing", fix=_EXAMPLE)
        targets = (self.max_latency_ms, self.min_images_per_s, self.max_memory_bytes)
        if not all(0 < value < math.inf for value in targets if value is not None):
            raise DeployError("A target must be above zero and finite.", code="invalid-target", fix=_EXAMPLE)
        if self.min_accuracy is not None and not 0 < self.min_accuracy < 1:
            raise DeployError(
                f"An accuracy of {100 * self.min_accuracy:g} % is not between 0 and 100 %.",
                code="invalid-accuracy-target",
                fix="give --min-accuracy 80%",
            )

    def is_met(self, *, latency_ms: float, images_per_s: float) -> bool:
        """The targets of time."""
        return self.is_fast_enough(latency_ms) and self.is_productive_enough(images_per_s)

    def is_fast_enough(self, latency_ms: float) -> bool:
        return self.max_latency_ms is None or latency_ms <= self.max_latency_ms

    def is_productive_enough(self, images_per_s: float) -> bool:
        return self.min_images_per_s is None or images_per_s >= self.min_images_per_s

    def is_small_enough(self, memory_bytes: float) -> bool:
        return self.max_memory_bytes is None or memory_bytes <= self.max_memory_bytes

    def is_accurate_enough(self, accuracy: float | None) -> bool:
        return self.min_accuracy is None or (
            accuracy is not None and accuracy >= round(self.min_accuracy, FRACTION_DIGITS)
        )
