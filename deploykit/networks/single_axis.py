"""A baseline stretched along one axis alone, to a given amount of work: compound scaling's rival.

References:
    Tan and Le, arXiv:1905.11946, section 3.2 (scaling dimensions) and Table 7 (B0 scaled along one of them).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from deploykit.networks.families.family import Family
from deploykit.networks.member import Member
from deploykit.networks.scaling import MAX_SIDE_PX, SIDE_STEP_PX, Axis, Scale
from deploykit.util.errors import DeployError

_HUNDREDTHS = range(100, 3201)  # of the baseline's depth or width


def single_axis_scale(family: Family, axis: Axis, *, macs: int) -> Scale:
    """The baseline stretched along `axis` alone, with the multiply-accumulates nearest to `macs`.

    Raises:
        DeployError: the baseline itself has more, or the largest such network has fewer.
    """

    def macs_of(scale: Scale) -> int:
        return family.network(scale).macs

    scales = _scales(family.base, axis)
    least, most = macs_of(scales[0]), macs_of(scales[-1])
    if not least <= macs <= most:
        raise DeployError(
            f"No {axis} gives {family.title}'s baseline {macs / 1e9:.3g} G multiply-accumulates.",
            code="axis-budget-unattainable",
            fix=f"ask for {least / 1e9:.3g} to {most / 1e9:.3g} G",
        )
    at = bisect_left(scales, macs, key=macs_of)
    return min(scales[max(at - 1, 0) : at + 1], key=lambda scale: abs(macs_of(scale) - macs))


def single_axis_member(family: Family, axis: Axis, *, macs: int) -> Member:
    """The same, under a name that says what was stretched.

    Raises:
        DeployError: see single_axis_scale.
    """
    return axis_member(family, single_axis_scale(family, axis, macs=macs), axis)


def axis_member(family: Family, scale: Scale, axis: Axis) -> Member:
    value = scale.side_px if axis == "side" else getattr(scale, axis)
    return Member(family=family, name=f"{family.name}-{axis}{value:g}", scale=scale)


def _scales(base: Scale, axis: Axis) -> Sequence[Scale]:
    if axis == "side":
        return [replace(base, side_px=side) for side in range(base.side_px, MAX_SIDE_PX + 1, SIDE_STEP_PX)]
    if axis == "depth":
        return [replace(base, depth=base.depth * factor / 100) for factor in _HUNDREDTHS]
    return [replace(base, width=base.width * factor / 100) for factor in _HUNDREDTHS]
