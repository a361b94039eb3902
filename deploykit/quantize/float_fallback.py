"""Float fallback: the few layers that stay in float because they make much noise and do little work."""

from collections.abc import Mapping
from dataclasses import dataclass

from deploykit.quantize.calibration.method_choice import ErrorSum
from deploykit.quantize.placement import Placement

DEFAULT_FLOAT_BUDGET = 0.10
"""Default limit on the fraction of the multiply-accumulates that stays in float for accuracy."""
FALLBACK_MIN_INT8_SHARE = 0.75
"""The fallback never reduces the fraction of the multiply-accumulates in INT8 below this."""
_MIN_NOISE_SHARE = 0.01  # a tensor with less of the total noise is not worth leaving in float


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatFallback:
    """The layers that stay in float for accuracy.

    Attributes:
        outputs: Outputs of the nodes that stay in float.
        macs_share: Their fraction of the model's multiply-accumulates.
        noise_share: Their fraction of the noise, as measured one tensor at a time.
    """

    outputs: tuple[str, ...] = ()
    macs_share: float = 0.0
    noise_share: float = 0.0


def choose_float_fallback(
    placement: Placement, noise: Mapping[str, ErrorSum], *, float_budget: float = DEFAULT_FLOAT_BUDGET
) -> tuple[Placement, FloatFallback]:
    """Remove the products with the most noise for their work from a placement.

    Args:
        noise: The output error with only one tensor in INT8, by tensor. Tensors without an entry stay.
        float_budget: Largest fraction of the model's multiply-accumulates to remove, from 0 to 1.
            FALLBACK_MIN_INT8_SHARE always stays in INT8.

    Returns:
        The remaining placement, and what was removed from it.
    """
    total = sum(noise[name].mean for name in placement.tensors if name in noise)
    budget = min(float_budget, placement.int8_share - FALLBACK_MIN_INT8_SHARE)
    work = _work_by_tensor(placement)
    noisy = [name for name in work if name in noise and noise[name].mean > _MIN_NOISE_SHARE * total]
    chosen: list[str] = []
    for name in sorted(noisy, key=lambda name: work[name] / noise[name].mean):
        if sum(work[each] for each in (*chosen, name)) <= budget:
            chosen.append(name)
    if not chosen:
        return placement, FloatFallback()
    outputs = tuple(output for name in chosen for output in placement.readers(name))
    fallback = FloatFallback(
        outputs=outputs,
        macs_share=sum(work[name] for name in chosen),
        noise_share=sum(noise[name].mean for name in chosen) / total,
    )
    return placement.without(outputs), fallback


def _work_by_tensor(placement: Placement) -> dict[str, float]:
    """Return the fraction of the model's multiply-accumulates that reads each tensor."""
    work: dict[str, float] = {}
    for node in placement.products:
        work[node.activation] = work.get(node.activation, 0.0) + node.macs / placement.macs
    return work
