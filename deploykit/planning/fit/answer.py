"""What a fit finds."""

import math
from dataclasses import dataclass

from deploykit.networks.families.family import Metric
from deploykit.networks.scaling import Axis, Scale
from deploykit.planning.fit.goal import Goal
from deploykit.planning.latency_source import Latency
from deploykit.util.types import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One network, and whether it fits.

    Attributes:
        phi: compound coefficient; of one axis alone, the compound one's of as much work.
        precision, batch: of the engine.
        memory_bytes: weights and activations, estimated.
        accuracy: published, in FP32; between published members that of the one below; None if there is none.
        misses: which targets it does not meet: `latency`, `throughput`, `memory`, `accuracy`.
    """

    phi: float
    scale: Scale
    precision: Precision
    batch: int
    latency: Latency
    memory_bytes: int
    accuracy: float | None
    misses: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.misses

    @property
    def images_per_s(self) -> float:
        return self.latency.images_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The answer.

    Attributes:
        family, gpu: by their titles.
        metric: what the family's accuracy is.
        axis: what was scaled; None for all three together.
        percentile: of measured and recorded latencies.
        candidates: every phi that was looked at, rising.
        advice: where nothing fits, what would make it fit.
        remarks: what to know before relying on it, a sentence each.
        rival: the same in the other precision, where two were compared.
    """

    family: str
    metric: Metric
    gpu: str
    axis: Axis | None
    goal: Goal
    percentile: float
    candidates: tuple[Candidate, ...]
    optimistic: bool = False
    advice: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    rival: "Fit | None" = None

    @property
    def precision(self) -> Precision:
        return self.candidates[0].precision

    @property
    def chosen(self) -> Candidate | None:
        """The largest that fits; None where none does."""
        return max((each for each in self.candidates if each.fits), key=lambda each: each.phi, default=None)

    @property
    def nearest_miss(self) -> Candidate:
        """Where none fits: the smallest that is accurate enough, or else the most accurate that is known."""
        accurate = (each for each in self.candidates if "accuracy" not in each.misses)
        return next(accurate, max(self.candidates, key=lambda each: each.accuracy or 0))

    @property
    def hoped_for(self) -> Candidate | None:
        """The largest beyond the chosen one whose expected latency fits, though not its interval's end."""
        beyond = -math.inf if self.chosen is None else self.chosen.phi
        hopeful = [
            each
            for each in self.candidates
            if each.phi > beyond
            and not {"memory", "accuracy"} & set(each.misses)
            and self.goal.is_met(latency_ms=each.latency.expected_ms, images_per_s=each.images_per_s)
        ]
        return max(hopeful, key=lambda each: each.phi, default=None)
