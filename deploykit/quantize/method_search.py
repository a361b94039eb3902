"""`auto`: reads ranges off by the method that serves held-out images best, and notes what costs most."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.quantize.calibration.method_choice import ErrorSum, MethodChoice, MethodScore
from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.output_error import (
    Array,
    output_error_amplitudes,
    output_errors,
    run_quantized,
    run_reference,
)
from deploykit.quantize.placement import Placement

if TYPE_CHECKING:
    from onnx import ModelProto

# In the order in which equals are preferred. On models with outlier images no single one is right.
CANDIDATE_METHODS = (
    CalibrationMethod(name="peak-percentile", percent=97.0),
    CalibrationMethod(name="peak-percentile", percent=99.0),
    CalibrationMethod(name="peak-percentile", percent=95.0),
    CalibrationMethod(name="peak-percentile", percent=90.0),
    CalibrationMethod(name="percentile", percent=99.999),
    CalibrationMethod(name="percentile", percent=99.99),
    CalibrationMethod(name="percentile", percent=99.9),
    CalibrationMethod(name="mse"),
    CalibrationMethod(name="entropy"),
    CalibrationMethod(name="max"),
)
_NOISE_PASSES = 512  # images run to see what each tensor costs, all tensors together
_NOISE_IMAGES = 16  # at most, a tensor

Progress = Callable[[int, int], None]


def choose_method(
    model: "ModelProto",
    placement: Placement,
    ranges: Ranges,
    held_out: list[Array],
    *,
    progress: Progress = lambda done, total: None,
) -> Ranges:
    """The ranges with the candidate that gives the least output error, and the errors it was chosen by.

    Args:
        model: FP32.
        placement: what is in INT8 while they are compared.
        held_out: batches of images, (n, 3, side, side) each, that the ranges were not measured on.
        progress: called with the steps done, and of all.
    """
    steps = len(CANDIDATE_METHODS) + len(placement.tensors)
    reference = run_reference(model, held_out)
    scores = []
    for method in CANDIDATE_METHODS:
        outputs = run_quantized(model, placement, replace(ranges, method=method), held_out, reference)
        scores.append(MethodScore(method=method, error=_sum(output_error_amplitudes(outputs, reference))))
        progress(len(scores), steps)
    best = min(scores, key=lambda score: score.error.mean).method
    chosen = replace(ranges, method=best)
    noise = _noise(
        model,
        placement,
        chosen,
        np.concatenate(held_out)[: max(2, min(_NOISE_IMAGES, _NOISE_PASSES // len(placement.tensors)))],
        progress=lambda done: progress(len(scores) + done, steps),
    )
    return replace(chosen, choice=MethodChoice(scores=tuple(scores), noise=noise))


def _noise(
    model: "ModelProto",
    placement: Placement,
    ranges: Ranges,
    batch: Array,
    *,
    progress: Callable[[int], None],
) -> dict[str, ErrorSum]:
    """The output error with each tensor alone in INT8."""
    reference = run_reference(model, [batch])
    noise = {}
    for done, name in enumerate(placement.tensors, 1):
        outputs = run_quantized(model, placement.reading(name), ranges, [batch], reference)
        noise[name] = _sum(output_errors(outputs, reference))
        progress(done)
    return noise


def _sum(errors: npt.NDArray[np.float64]) -> ErrorSum:
    return ErrorSum(total=float(errors.sum()), images=len(errors))
