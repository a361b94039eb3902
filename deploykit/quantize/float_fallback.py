"""Which few products to leave in float, for how much noise they make and how little work they do."""

from collections.abc import Mapping
from dataclasses import dataclass

from deploykit.quantize.calibration.method_choice import ErrorSum
from deploykit.quantize.placement import Placement

DEFAULT_FLOAT_BUDGET = 0.10
"""Default part of the model's multiply-accumulates that may stay out of INT8 for accuracy's sake."""
FALLBACK_MIN_INT8_SHARE = 0.75
"""No product is left out by itself where less than this part of the work would be in INT8."""
_AUDIBLE = 0.01  # of all the noise: a tensor below it is not worth leaving out


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatFallback:
    """What stays in float for accuracy.

    Attributes:
        outputs: of the nodes left in float.
        macs_share: their part of the model's multiply-accumulates.
        noise_share: their part of the noise, as measured tensor by tensor.
    """

    outputs: tuple[str, ...] = ()
    macs_share: float = 0.0
    noise_share: float = 0.0


def choose_float_fallback(
    placement: Placement, noise: Mapping[str, ErrorSum], *, spare: float = DEFAULT_FLOAT_BUDGET
) -> tuple[Placement, FloatFallback]:
    """The placement less the products with most noise for their work, and which these are.

    Args:
        noise: the output error with one tensor alone in INT8; tensors it lacks stay in.
        spare: part of the model's multiply-accumulates to leave out at most;
            FALLBACK_MIN_INT8_SHARE stays in INT8.
    """
    total = sum(noise[name].mean for name in placement.tensors if name in noise)
    budget = min(spare, placement.int8_share - FALLBACK_MIN_INT8_SHARE)
    work = _work(placement)
    loud = [name for name in work if name in noise and noise[name].mean > _AUDIBLE * total]
    chosen: list[str] = []
    for name in sorted(loud, key=lambda name: work[name] / noise[name].mean):
        if sum(work[each] for each in (*chosen, name)) <= budget:
            chosen.append(name)
    if not chosen:
        return placement, FloatFallback()
    outputs = tuple(output for name in chosen for output in placement.readers(name))
    left_out = FloatFallback(
        outputs=outputs,
        macs_share=sum(work[name] for name in chosen),
        noise_share=sum(noise[name].mean for name in chosen) / total,
    )
    return placement.without(outputs), left_out


def _work(placement: Placement) -> dict[str, float]:
    """The part of the model's multiply-accumulates that read each tensor."""
    work: dict[str, float] = {}
    for node in placement.products:
        work[node.activation] = work.get(node.activation, 0.0) + node.macs / placement.macs
    return work
