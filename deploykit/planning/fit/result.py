"""What a fit finds: the candidates, and the largest that meets the targets."""

import math
from dataclasses import dataclass

from deploykit.networks.families.family import Metric
from deploykit.networks.scaling import Axis, Scale
from deploykit.planning.fit.targets import Targets
from deploykit.planning.latency_source import Latency
from deploykit.util.types import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One network with its figures, and the targets that it misses.

    Attributes:
        phi: Compound coefficient. For a network scaled along one axis, the phi of as much work.
        precision, batch: What the engine would be built for.
        memory_bytes: Estimated size of weights and activations.
        accuracy: Published FP32 accuracy, as a fraction; between published members, that of the next smaller
            one. None if none was published.
        misses: Names of the missed targets: `latency`, `throughput`, `memory`, `accuracy`.
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
        """Whether it meets every target."""
        return not self.misses

    @property
    def images_per_s(self) -> float:
        """Expected throughput."""
        return self.latency.images_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The result of a fit.

    Attributes:
        family, gpu: Titles, for people to read.
        metric: Which accuracy metric the family has.
        axis: The only scaled axis; None for compound scaling.
        percentile: Which percentile measured and recorded latencies are, from 0 to 100.
        candidates: Every phi that was considered, in rising order.
        optimistic: Whether the middle of predicted intervals decides, not the unfavourable end.
        advice: If nothing fits, sentences about what would make something fit.
        notes: Sentences to read before relying on the result.
        alternative: The result at the other precision, if two were compared.
    """

    family: str
    metric: Metric
    gpu: str
    axis: Axis | None
    targets: Targets
    percentile: float
    candidates: tuple[Candidate, ...]
    optimistic: bool = False
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    alternative: "FitResult | None" = None

    @property
    def precision(self) -> Precision:
        """The precision of all candidates."""
        return self.candidates[0].precision

    @property
    def chosen(self) -> Candidate | None:
        """The largest candidate that fits; None if none does."""
        return max((each for each in self.candidates if each.fits), key=lambda each: each.phi, default=None)

    @property
    def nearest_miss(self) -> Candidate:
        """If nothing fits: the smallest candidate that is accurate enough, else the most accurate one."""
        accurate = (each for each in self.candidates if "accuracy" not in each.misses)
        return next(accurate, max(self.candidates, key=lambda each: each.accuracy or 0))

    @property
    def borderline(self) -> Candidate | None:
        """The largest candidate beyond the chosen one whose expected figures meet the targets.

        Its interval does not meet them entirely. None if there is no such candidate.
        """
        chosen_phi = -math.inf if self.chosen is None else self.chosen.phi
        borderline = [
            each
            for each in self.candidates
            if each.phi > chosen_phi
            and not {"memory", "accuracy"} & set(each.misses)
            and self.targets.are_met(latency_ms=each.latency.expected_ms, images_per_s=each.images_per_s)
        ]
        return max(borderline, key=lambda each: each.phi, default=None)
