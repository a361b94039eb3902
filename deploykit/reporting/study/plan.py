"""What a study measures, and in which order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from deploykit.networks.families.family import Family
from deploykit.networks.member import Member, choose_member
from deploykit.networks.scaling import AXES, Axis, Scale, stretched_axis
from deploykit.networks.single_axis import axis_member, single_axis_scale
from deploykit.util.types import Precision

MeasurementKind = Literal["single-stream", "offline", "layers"]

# Smallest number of calls. p90 needs a hundred; throughput is a mean, which needs fewer.
CALLS: dict[MeasurementKind, int] = {"single-stream": 100, "offline": 10, "layers": 60}
MAX_AXIS_PHI = 4.0  # one axis alone is scaled up to this phi's work; larger networks of this kind have no use


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStep:
    """One measurement of one network."""

    member: Member
    precision: Precision
    kind: MeasurementKind
    batch: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole measurement, at least."""
        return self.member.network().macs * self.batch * CALLS[self.kind]


def plan_study(
    family: Family,
    *,
    phis: Sequence[float],
    precisions: Sequence[Precision],
    batches: Sequence[int],
    axes: Sequence[Axis] = AXES,
) -> tuple[StudyStep, ...]:
    """Return the measurements of a study, from the least work to the most.

    In that order an interrupted study is still useful. Each phi is measured for latency, layers and
    throughput by batch. Networks that scale one axis alone are measured for latency at the first precision:
    those with as much work as a phi, and those with a published accuracy.
    """
    steps: dict[Member, list[StudyStep]] = {}
    for phi in sorted(set(phis)):
        member = choose_member(family, phi=phi)
        steps[member] = [
            step for precision in precisions for step in _plan_member(member, precision, sorted(set(batches)))
        ]
    for member in _list_single_axis_members(family, list(steps), axes):
        steps[member] = [StudyStep(member=member, precision=precisions[0], kind="single-stream")]
    by_work = sorted(steps, key=lambda member: member.network().macs)
    return tuple(step for member in by_work for step in steps[member])


def _plan_member(member: Member, precision: Precision, batches: Sequence[int]) -> Iterator[StudyStep]:
    yield StudyStep(member=member, precision=precision, kind="single-stream")
    yield StudyStep(member=member, precision=precision, kind="layers")
    for batch in batches:
        yield StudyStep(member=member, precision=precision, kind="offline", batch=batch)


def _list_single_axis_members(
    family: Family, compound: Sequence[Member], axes: Sequence[Axis]
) -> Iterator[Member]:
    """Yield networks of one axis: as much work as the compound ones, and those with published accuracy."""
    scales: dict[Scale, None] = {}
    for member in compound:
        if member.phi is not None and 0 < member.phi <= MAX_AXIS_PHI:
            macs = member.network().macs
            scales |= dict.fromkeys(single_axis_scale(family, axis, macs=macs) for axis in axes)
    if scales:
        scales |= dict.fromkeys(
            scale for scale in family.accuracy if stretched_axis(scale, family.base) in axes
        )
    for scale in scales:
        axis = stretched_axis(scale, family.base)
        if axis is not None:
            yield axis_member(family, scale, axis)
