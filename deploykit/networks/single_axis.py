"""Scaling a baseline along a single axis to a given amount of work, to compare with compound scaling.

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
    """Return the scale along `axis` alone whose multiply-accumulates are nearest to `macs`.

    Args:
        family: The family whose baseline is scaled.
        axis: depth, width or side.
        macs: Multiply-accumulates for one image.

    Raises:
        DeployError: The baseline has more, or the largest such network has fewer.
    """

    def count_macs(scale: Scale) -> int:
        return family.network(scale).macs

    scales = _candidate_scales(family.base, axis)
    least, most = count_macs(scales[0]), count_macs(scales[-1])
    if not least <= macs <= most:
        raise DeployError(
            f"Scaling only the {axis} of {family.title} cannot give {macs / 1e9:.3g} G multiply-accumulates.",
            code="axis-budget-unattainable",
            fix=f"use a budget of {least / 1e9:.3g} to {most / 1e9:.3g} G",
        )
    at = bisect_left(scales, macs, key=count_macs)
    return min(scales[max(at - 1, 0) : at + 1], key=lambda scale: abs(count_macs(scale) - macs))


def single_axis_member(family: Family, axis: Axis, *, macs: int) -> Member:
    """Return the member at single_axis_scale, named after the axis.

    Raises:
        DeployError: see single_axis_scale.
    """
    return axis_member(family, single_axis_scale(family, axis, macs=macs), axis)


def axis_member(family: Family, scale: Scale, axis: Axis) -> Member:
    """Return a member that is named after the axis it is scaled along."""
    value = scale.side_px if axis == "side" else getattr(scale, axis)
    return Member(family=family, name=f"{family.name}-{axis}{value:g}", scale=scale)


def _candidate_scales(base: Scale, axis: Axis) -> Sequence[Scale]:
    if axis == "side":
        return [replace(base, side_px=side) for side in range(base.side_px, MAX_SIDE_PX + 1, SIDE_STEP_PX)]
    if axis == "depth":
        return [replace(base, depth=base.depth * factor / 100) for factor in _HUNDREDTHS]
    return [replace(base, width=base.width * factor / 100) for factor in _HUNDREDTHS]
