"""What a study measures, in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from deploykit.architecture.efficientnet import efficientnet
from deploykit.architecture.single_axis import single_axis_scale
from deploykit.model_file import Precision
from deploykit.published import STRETCHED
from deploykit.scaling import AXES, Axis, Scale, axis_of, phi_label, scale_for

Kind = Literal["single-stream", "offline", "layers"]

# Calls of each kind, at least. p90 takes a hundred; throughput is a mean, which takes fewer.
CALLS: dict[Kind, int] = {"single-stream": 100, "offline": 10, "layers": 60}
PAPERS_PHI = 3.0  # the work that published.STRETCHED do about as much of
LARGEST_AXIS_PHI = 4.0  # of whose work one axis alone is stretched: beyond, to what nobody would use


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One measurement of a network.

    Attributes:
        name: of the network.
        phi: None where one axis alone is stretched.
    """

    name: str
    scale: Scale
    phi: float | None
    precision: Precision
    kind: Kind
    batch: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates that it takes at least."""
        return efficientnet(self.scale).macs * self.batch * CALLS[self.kind]


def plan_study(
    *,
    phis: Sequence[float],
    precisions: Sequence[Precision],
    batches: Sequence[int],
    axes: Sequence[Axis] = AXES,
) -> tuple[Step, ...]:
    """From the least phi to the largest, so that what there is when it is stopped is of use.

    Of each phi latency, layers and throughput by batch; and the latency, in the first precision, of networks
    with as much work that are stretched along one axis alone, and of those whose accuracy was published.
    """
    steps: list[Step] = []
    for phi in sorted(set(phis)):
        scale = scale_for(phi)
        for precision in precisions:
            step = partial(
                Step,
                name=f"efficientnet-phi{phi_label(phi)}",
                scale=scale,
                phi=phi,
                precision=precision,
            )
            steps += [step(kind="single-stream"), step(kind="layers")]
            steps += [step(kind="offline", batch=batch) for batch in sorted(set(batches))]
        if 0 < phi <= LARGEST_AXIS_PHI:
            macs = efficientnet(scale).macs
            scales = [single_axis_scale(axis, macs=macs) for axis in axes]
            if phi == PAPERS_PHI:
                scales += [scale for scale in STRETCHED if axis_of(scale) in axes]
            steps += [_stretched(scale, precisions[0]) for scale in scales]
    return tuple(steps)


def _stretched(scale: Scale, precision: Precision) -> Step:
    axis = axis_of(scale)
    value = scale.side_px if axis == "side" else getattr(scale, str(axis))
    return Step(
        name=f"efficientnet-{axis}{value:g}",
        scale=scale,
        phi=None,
        precision=precision,
        kind="single-stream",
    )
