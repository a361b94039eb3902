"""The fitted parameters of the cost model, and how wide its intervals are.

benchmarks/fit_cost_model.py writes cost_model.json; docs/cost-model.md describes the fit and its errors.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources

from deploykit.gpu_catalog.gpus import Gpu
from deploykit.networks.architecture.network import Network
from deploykit.util.json_io import from_json
from deploykit.util.types import Precision

INTERVAL_CONFIDENCE = 0.9
"""Probability that a latency lies in its predicted interval."""

# An interval's logarithmic width grows by this share for each doubling of the batch, or of the work per
# image, beyond the published figures. Source: docs/cost-model.md, "Beyond the figures".
WIDENING_PER_DOUBLING = 0.2

IntervalFactors = tuple[float, float]
"""Lower and upper factor of a prediction; the truth lies between them with INTERVAL_CONFIDENCE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The fitted parameters, the same for every GPU.

    Attributes:
        tensor_fraction: share of the tensor cores' peak that convolutions and matrix products sustain
        cuda_fraction: share of the CUDA cores' peak that they sustain where tensor cores cannot run them
        grouped_fraction: share of other convolutions' rate that convolutions with few groups sustain
        depthwise_fraction: share of the FP32 peak that depthwise convolutions sustain in FP16; twice in INT8
        bandwidth_fraction: share of the peak bandwidth that is sustained
        launch_us: time from the end of one kernel to the work of the next, in a CUDA graph as in most figures
        outputs_per_sm: outputs that keep one SM busy; with fewer, the arithmetic units wait
        silu_fraction: share of its own kernel's cost that a SiLU takes in FP16, because some are fused
        silu_fraction_int8: the same share in INT8
        int8_slowdown: factor on the time of INT8 kernels where tensor cores are older than Ampere's
    """

    tensor_fraction: float
    cuda_fraction: float
    grouped_fraction: float
    depthwise_fraction: float
    bandwidth_fraction: float
    launch_us: float
    outputs_per_sm: float
    silu_fraction: float
    silu_fraction_int8: float
    int8_slowdown: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedModel:
    """The contents of cost_model.json.

    Attributes:
        gpus: GPUs with published EfficientNet latencies.
        families: Families with published latencies.
        precisions: Precisions with published latencies.
        largest_batch, smallest_macs, largest_macs: Extremes of the published figures; MACs per image.
        interval_measured: For EfficientNets on `gpus` at `precisions`; from fits without that network there.
        interval_elsewhere: For `families` on other GPUs; from fits without that GPU.
        interval_unfamiliar: For other families and precisions; from fits without that GPU and that family.
    """

    parameters: Parameters
    gpus: tuple[str, ...]
    families: tuple[str, ...]
    precisions: tuple[Precision, ...]
    largest_batch: int
    smallest_macs: int
    largest_macs: int
    interval_measured: IntervalFactors
    interval_elsewhere: IntervalFactors
    interval_unfamiliar: IntervalFactors

    def compute_interval(
        self, network: Network, gpu: Gpu, *, precision: Precision, batch: int
    ) -> IntervalFactors:
        """Return the factors of the interval; they widen with the distance from the published figures."""
        if network.family not in self.families or precision not in self.precisions:
            low, high = self.interval_unfamiliar
        elif network.family == "efficientnet" and gpu.name in self.gpus:
            low, high = self.interval_measured
        else:
            low, high = self.interval_elsewhere
        doublings = (
            _count_doublings(batch, self.largest_batch)
            + _count_doublings(network.macs, self.largest_macs)
            + _count_doublings(self.smallest_macs, network.macs)
        )
        exponent = 1 + WIDENING_PER_DOUBLING * doublings
        return low**exponent, high**exponent


@cache
def load_fitted_model() -> FittedModel:
    """Return the committed fit."""
    text = resources.files("deploykit.planning.cost_model").joinpath("cost_model.json").read_bytes()
    return from_json(text, FittedModel)


def _count_doublings(value: float, limit: float) -> float:
    return max(0.0, math.log2(value / limit))
