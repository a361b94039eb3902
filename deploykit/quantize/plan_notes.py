"""Notes to the user about an INT8 plan, one sentence or two each."""

from deploykit.networks.model_info import ModelInfo
from deploykit.quantize.accuracy_gate import GateResult
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.float_fallback import FALLBACK_MIN_INT8_SHARE, FloatFallback
from deploykit.quantize.placement import Placement

_LARGE_DROP = 5.0  # points that no typical calibration costs
_NO_GAIN_SHARE = 0.25  # of the multiply-accumulates: INT8 halves their time, less the cost of conversions


def preprocessing_note(ranges: Ranges, info: ModelInfo) -> str | None:
    """Return a note if the ranges were measured with preprocessing that differs from the model's."""
    if ranges.preprocessing == info.preprocessing:
        return None
    return (
        "The ranges were measured with different preprocessing than the model's. The quantized model records "
        "the preprocessing of the ranges: prepare its images that way."
    )


def clipping_note(ranges: Ranges, placement: Placement) -> str | None:
    """Return a note if some tensors are clipped to less than half of their largest value."""
    fractions = {name: part for name, part in ranges.clipped_fractions().items() if name in placement.tensors}
    if not fractions:
        return None
    most = ", ".join(
        f"{name} (to {100 * fractions[name]:.2g} %)"
        for name in sorted(fractions, key=fractions.__getitem__)[:3]
    )
    return (
        f"Clipped to less than half of the largest value seen ({ranges.method}): {len(fractions)} of "
        f"{len(placement.tensors)} tensors, most of all {most}."
    )


def fallback_note(fallback: FloatFallback, policy_placement: Placement) -> str | None:
    """Return which layers stay in float for accuracy, or why none do.

    Args:
        fallback: The layers that stay in float.
        policy_placement: The placement before the fallback.
    """
    if fallback.outputs:
        return (
            f"Left in float for accuracy: {', '.join(fallback.outputs)}; {100 * fallback.macs_share:.1f} % "
            f"of the multiply-accumulates, {100 * fallback.noise_share:.0f} % of the noise."
        )
    if policy_placement.int8_share > FALLBACK_MIN_INT8_SHARE:
        return None
    return (
        "Nothing is left in float for accuracy, because the policy puts only "
        f"{100 * FALLBACK_MIN_INT8_SHARE:g} % or less in INT8."
    )


def placement_note(placement: Placement) -> str:
    """Return what the plan puts in INT8."""
    advice = (
        " This is too little to gain anything: build in another precision."
        if placement.int8_share < _NO_GAIN_SHARE
        else ""
    )
    return (
        f"INT8 policy {placement.policy}: {len(placement.products)} convolutions and linear layers, "
        f"{100 * placement.int8_share:.1f} % of the multiply-accumulates.{advice}"
    )


def gate_note(result: GateResult, max_drop: float, ranges: Ranges) -> str:
    """Return what the accuracy gate measured, and which blocks it moved to float."""
    if not result.float_blocks:
        drop = result.top1_drop
        change = f"drops by {drop:.2f}" if drop >= 0 else f"rises by {-drop:.2f}"
        return f"Top-1 {change} points on {result.images} images; a drop of {max_drop:g} is allowed."
    suspicion = ""
    if result.initial_top1_drop > _LARGE_DROP:
        suspicion = " So large a drop suggests that the calibration images are unlike these"
        suspicion += "." if ranges.choice else f", or that {ranges.method} suits them badly: try auto."
    return (
        f"Top-1 dropped by {result.initial_top1_drop:.2f} points on {result.images} images, and by "
        f"{result.top1_drop:.2f} with {', '.join(result.float_blocks)} left in float, another "
        f"{100 * result.macs_share:.1f} % of the multiply-accumulates: "
        f"{100 * result.placement.int8_share:.1f} % are in INT8.{suspicion}"
    )
