"""B0 stretched along one axis alone, to a given amount of work: what compound scaling is held against.

References:
    Tan and Le, arXiv:1905.11946, section 3.2 (scaling dimensions) and Table 7 (B0 scaled along one of them).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from deploykit.architecture.efficientnet import efficientnet
from deploykit.errors import DeployError
from deploykit.scaling import BASE, MAX_SIDE_PX, SIDE_STEP_PX, Axis, Scale

_HUNDREDTHS = range(100, 3201)  # of the baseline's depth or width


def single_axis_scale(axis: Axis, *, macs: int) -> Scale:
    """B0 stretched along `axis` alone, with the multiply-accumulates nearest to `macs`.

    Raises:
        DeployError: B0 itself has more, or the largest such network has fewer.
    """
    scales = _scales(axis)
    at = bisect_left(scales, macs, key=_macs)
    least, most = _macs(scales[0]), _macs(scales[-1])
    if not least <= macs <= most:
        raise DeployError(
            f"No {axis} gives EfficientNet-B0 {macs / 1e9:.3g} G multiply-accumulates.",
            fix=f"ask for {least / 1e9:.3g} to {most / 1e9:.3g} G",
        )
    return min(scales[max(at - 1, 0) : at + 1], key=lambda scale: abs(_macs(scale) - macs))


def _scales(axis: Axis) -> Sequence[Scale]:
    if axis == "side":
        return [replace(BASE, side_px=side) for side in range(BASE.side_px, MAX_SIDE_PX + 1, SIDE_STEP_PX)]
    if axis == "depth":
        return [replace(BASE, depth=factor / 100) for factor in _HUNDREDTHS]
    return [replace(BASE, width=factor / 100) for factor in _HUNDREDTHS]


def _macs(scale: Scale) -> int:
    return efficientnet(scale).macs
