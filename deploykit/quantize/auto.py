"""`auto`: reads ranges off by the method that serves held-out images best, and notes what costs most."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.quantize.choice import Choice, ErrorSum, Score, best_of
from deploykit.quantize.leave_out import leave_out
from deploykit.quantize.methods import Method
from deploykit.quantize.output_error import Array, image_amplitudes, image_errors, run_model, run_quantized
from deploykit.quantize.placement import Placement
from deploykit.quantize.ranges import Ranges

if TYPE_CHECKING:
    from onnx import ModelProto

# In the order in which equals are preferred. On models with outlier images no single one is right.
CANDIDATES = (
    Method(name="peak-percentile", percent=97.0),
    Method(name="peak-percentile", percent=99.0),
    Method(name="peak-percentile", percent=95.0),
    Method(name="peak-percentile", percent=90.0),
    Method(name="percentile", percent=99.999),
    Method(name="percentile", percent=99.99),
    Method(name="percentile", percent=99.9),
    Method(name="mse"),
    Method(name="entropy"),
    Method(name="max"),
)
_NOISE_PASSES = 512  # images run to see what each tensor costs, all tensors together
_NOISE_IMAGES = 16  # at most, a tensor

Progress = Callable[[int, int], None]


def choose(
    model: "ModelProto",
    placement: Placement,
    ranges: Ranges,
    held_out: list[Array],
    *,
    compared: Placement | None = None,
    progress: Progress = lambda done, total: None,
) -> Ranges:
    """The ranges with the candidate that gives the least output error, and the errors it was chosen by.

    Args:
        model: FP32.
        placement: of the tensors whose noise is measured.
        held_out: batches of images, (n, 3, side, side) each, that the ranges were not measured on.
        compared: what is in INT8 while methods are compared, but for the layers that the noise says to leave
            out; default placement.
        progress: called with the steps done, and of all.
    """
    compared, steps, done = compared or placement, len(placement.tensors) + 2 * len(CANDIDATES), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, steps)

    # Some method is needed to see which layers will be left out, and these to see which method is best.
    first = best_of(_scores(model, compared, ranges, held_out[:1], step))
    some = np.concatenate(held_out)[: max(2, min(_NOISE_IMAGES, _NOISE_PASSES // len(placement.tensors)))]
    noise = _noise(model, placement, replace(ranges, method=first), some, step)
    kept, _ = leave_out(compared, noise)
    choice = Choice(scores=_scores(model, kept, ranges, held_out, step), noise=noise)
    return replace(ranges, method=choice.best, choice=choice)


def _scores(
    model: "ModelProto", placement: Placement, ranges: Ranges, batches: list[Array], step: Callable[[], None]
) -> tuple[Score, ...]:
    """Every candidate's, on these images."""
    reference = run_model(model.SerializeToString(), batches)
    scores = []
    for method in CANDIDATES:
        logits = run_quantized(model, placement, replace(ranges, method=method), batches)
        scores.append(Score(method=method, error=_sum(image_amplitudes(logits, reference))))
        step()
    return tuple(scores)


def _noise(
    model: "ModelProto", placement: Placement, ranges: Ranges, batch: Array, step: Callable[[], None]
) -> dict[str, ErrorSum]:
    """The output error with each tensor alone in INT8."""
    reference = run_model(model.SerializeToString(), [batch])
    noise = {}
    for name in placement.tensors:
        logits = run_quantized(model, placement.reading(name), ranges, [batch])
        noise[name] = _sum(image_errors(logits, reference))
        step()
    return noise


def _sum(errors: npt.NDArray[np.float64]) -> ErrorSum:
    return ErrorSum(total=float(errors.sum()), images=len(errors))
