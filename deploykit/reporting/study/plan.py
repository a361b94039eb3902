"""What a study measures, in which order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from deploykit.networks.families.family import Family
from deploykit.networks.member import Member, choose_member
from deploykit.networks.scaling import AXES, Axis, Scale, stretched_axis
from deploykit.networks.single_axis import axis_member, single_axis_scale
from deploykit.util.types import Precision

Kind = Literal["single-stream", "offline", "layers"]

# Calls of each kind, at least. p90 takes a hundred; throughput is a mean, which takes fewer.
CALLS: dict[Kind, int] = {"single-stream": 100, "offline": 10, "layers": 60}
LARGEST_AXIS_PHI = 4.0  # of whose work one axis alone is stretched: beyond, to what nobody would use


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One measurement of a network."""

    member: Member
    precision: Precision
    kind: Kind
    batch: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates that it takes at least."""
        return self.member.network().macs * self.batch * CALLS[self.kind]


def plan_study(
    family: Family,
    *,
    phis: Sequence[float],
    precisions: Sequence[Precision],
    batches: Sequence[int],
    axes: Sequence[Axis] = AXES,
) -> tuple[Step, ...]:
    """From the network of least work to that of most, so that what there is when it is stopped is of use.

    Of each phi latency, layers and throughput by batch; and the latency, in the first precision, of networks
    with as much work that are stretched along one axis alone, and of those whose accuracy was published.
    """
    steps: dict[Member, list[Step]] = {}
    for phi in sorted(set(phis)):
        member = choose_member(family, phi=phi)
        steps[member] = [
            step for precision in precisions for step in _all_of(member, precision, sorted(set(batches)))
        ]
    for member in _stretched(family, list(steps), axes):
        steps[member] = [Step(member=member, precision=precisions[0], kind="single-stream")]
    by_work = sorted(steps, key=lambda member: member.network().macs)
    return tuple(step for member in by_work for step in steps[member])


def _all_of(member: Member, precision: Precision, batches: Sequence[int]) -> Iterator[Step]:
    yield Step(member=member, precision=precision, kind="single-stream")
    yield Step(member=member, precision=precision, kind="layers")
    for batch in batches:
        yield Step(member=member, precision=precision, kind="offline", batch=batch)


def _stretched(family: Family, compound: Sequence[Member], axes: Sequence[Axis]) -> Iterator[Member]:
    """Networks of one axis alone: as much work as the compound ones, and what was published."""
    scales: dict[Scale, None] = {}
    for member in compound:
        if member.phi is not None and 0 < member.phi <= LARGEST_AXIS_PHI:
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
