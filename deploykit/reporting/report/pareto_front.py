"""What nothing else beats in both latency and accuracy, and how sure that is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deploykit.bench.record import Record
from deploykit.reporting.report.section import Evidence
from deploykit.stats.estimate import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A network with its accuracy, in percent, and its latency.

    Attributes:
        series: what it is drawn with, in parts; colour: of that.
        place: where it runs; data: what the accuracy is on. Points of one place and data compete.
        top1: what was published has no interval.
        record: of its latency, where that was measured.
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
        return self.place, self.data

    @property
    def own_latency_ms(self) -> Estimate:
        """Without what it shares with its rivals: predictions for one GPU err together."""
        if self.latency_evidence == "predicted":
            return Estimate(value=self.latency_ms.value, low=None, high=None)
        return self.latency_ms

    def may_be_beaten_by(self, other: "Point") -> bool:
        """Whether it is possible, as far as the intervals tell."""
        return _least(other.own_latency_ms) <= _most(self.own_latency_ms) and _most(other.top1) >= _least(
            self.top1
        )

    def is_clearly_beaten_by(self, other: "Point") -> bool:
        return _most(other.own_latency_ms) < _least(self.own_latency_ms) and _least(other.top1) >= _most(
            self.top1
        )


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other is at least as fast as and at least as accurate as; by latency."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.latency_ms.value, -each.top1.value)):
        if not found or point.top1.value > found[-1].top1.value:
            found.append(point)
    return found


def standing(point: Point, on_front: Sequence[Point], points: Sequence[Point]) -> str:
    """`yes`, `perhaps` or nothing, by the intervals."""
    if point not in on_front:
        return "" if any(point.is_clearly_beaten_by(other) for other in on_front) else "perhaps"
    rivals = [each for each in points if each is not point and each.contest == point.contest]
    return "perhaps" if any(point.may_be_beaten_by(each) for each in rivals) else "yes"


def _least(estimate: Estimate) -> float:
    return estimate.value if estimate.low is None else estimate.low


def _most(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high
