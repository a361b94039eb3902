"""Find the networks that no other beats in both latency and accuracy, and how certain that is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deploykit.bench.record import Record
from deploykit.planning.latency_source import Evidence
from deploykit.stats.estimate import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyPoint:
    """A network with its latency and its accuracy.

    Attributes:
        series: Name of its series in the plot, in parts.
        colour: Colour of its series.
        place: Machine or GPU that it runs on.
        data: Images that the accuracy was evaluated on. Only points with one place and one data compete.
        top1: In percent; a published accuracy has no interval.
        source: Where the accuracy comes from.
        record: Record of the latency, if it was measured.
    """

    network: str
    series: tuple[str, ...]
    colour: str
    place: str
    data: str
    latency_ms: Estimate
    top1: Estimate
    latency_evidence: Evidence
    top1_evidence: Evidence
    source: str
    record: Record | None = None

    @property
    def contest(self) -> tuple[str, str]:
        """Points of one contest compete."""
        return self.place, self.data

    @property
    def independent_latency_ms(self) -> Estimate:
        """Latency without the error it shares with competitors: predictions for one GPU err together."""
        if self.latency_evidence == "predicted":
            return Estimate(value=self.latency_ms.value, low=None, high=None)
        return self.latency_ms

    def may_be_beaten_by(self, other: "AccuracyPoint") -> bool:
        """Return whether the intervals allow the other to be at least as good in both."""
        is_maybe_faster = _low(other.independent_latency_ms) <= _high(self.independent_latency_ms)
        return is_maybe_faster and _high(other.top1) >= _low(self.top1)

    def is_clearly_beaten_by(self, other: "AccuracyPoint") -> bool:
        """Return whether the other is better in both, wherever in the intervals the truth lies."""
        is_clearly_faster = _high(other.independent_latency_ms) < _low(self.independent_latency_ms)
        return is_clearly_faster and _low(other.top1) >= _high(self.top1)


def find_front(points: Iterable[AccuracyPoint]) -> list[AccuracyPoint]:
    """Return the Pareto front, in rising order of latency."""
    front: list[AccuracyPoint] = []
    for point in sorted(points, key=lambda each: (each.latency_ms.value, -each.top1.value)):
        if not front or point.top1.value > front[-1].top1.value:
            front.append(point)
    return front


def front_status(
    point: AccuracyPoint, front: Sequence[AccuracyPoint], points: Sequence[AccuracyPoint]
) -> str:
    """Return whether a point is on the front: `yes`, `possibly`, or nothing for no."""
    if point not in front:
        return "" if any(point.is_clearly_beaten_by(other) for other in front) else "possibly"
    competitors = [each for each in points if each is not point and each.contest == point.contest]
    return "possibly" if any(point.may_be_beaten_by(each) for each in competitors) else "yes"


def _low(estimate: Estimate) -> float:
    return estimate.value if estimate.low is None else estimate.low


def _high(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high
