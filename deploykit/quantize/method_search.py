"""`auto`: choose the calibration method with the least output error, and measure each tensor's noise."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deploykit.quantize.calibration.method_choice import ErrorSum, MethodChoice, MethodScore
from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.output_error import (
    output_error_amplitudes,
    output_errors,
    run_quantized,
    run_reference,
)
from deploykit.quantize.placement import Placement
from deploykit.util.array_types import Float32Array, Float64Array
from deploykit.util.progress import Progress, no_progress

if TYPE_CHECKING:
    from onnx import ModelProto

# Earlier methods win ties. No single method is right for models with outlier images.
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
_MAX_NOISE_RUNS = 512  # images run to measure the noise of all tensors together
_MAX_NOISE_IMAGES = 16  # per tensor


def choose_method(
    model: "ModelProto",
    placement: Placement,
    ranges: Ranges,
    held_out: list[Float32Array],
    *,
    progress: Progress = no_progress,
) -> Ranges:
    """Return the ranges with the method that gives the least output error, and the errors that decided.

    Args:
        model: The FP32 model.
        placement: What is in INT8 while methods are compared.
        ranges: Statistics to read ranges off.
        held_out: Batches of images, (n, 3, side, side) each, that the statistics do not include.
    """
    steps = len(CANDIDATE_METHODS) + len(placement.tensors)
    reference = run_reference(model, held_out)
    scores = []
    for method in CANDIDATE_METHODS:
        outputs = run_quantized(model, placement, replace(ranges, method=method), held_out, reference)
        scores.append(MethodScore(method=method, error=_sum(output_error_amplitudes(outputs, reference))))
        progress("choosing ranges", len(scores), steps)
    best = min(scores, key=lambda score: score.error.mean).method
    chosen = replace(ranges, method=best)
    images = max(2, min(_MAX_NOISE_IMAGES, _MAX_NOISE_RUNS // len(placement.tensors)))
    batch = np.concatenate(held_out)[:images]
    reference = run_reference(model, [batch])
    noise = {}
    for done, name in enumerate(placement.tensors, len(scores) + 1):
        outputs = run_quantized(model, placement.only_tensor(name), chosen, [batch], reference)
        noise[name] = _sum(output_errors(outputs, reference))
        progress("choosing ranges", done, steps)
    return replace(chosen, choice=MethodChoice(scores=tuple(scores), noise=noise))


def _sum(errors: Float64Array) -> ErrorSum:
    return ErrorSum(total=float(errors.sum()), images=len(errors))
