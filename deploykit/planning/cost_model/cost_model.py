"""Predict the latency of one batch on a GPU: one roofline per kernel, fitted to published latencies.

A kernel costs its launch plus the smooth maximum of two times: its arithmetic at a sustained fraction of the
peak, and its traffic at a sustained fraction of the bandwidth. docs/cost-model.md describes the fit and its
errors.

References:
    Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
    Architectures", CACM 52(4), 2009.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from deploykit.gpu_catalog.gpus import Gpu
from deploykit.networks.architecture.network import ActivationKind, Network
from deploykit.planning.cost_model.fitted_model import INTERVAL_CONFIDENCE, load_fitted_model
from deploykit.planning.cost_model.kernels import Kernel, count_kernels
from deploykit.planning.cost_model.rates import Rates, allow_tf32, compute_rates
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

UNFUSED_ACTIVATIONS: tuple[ActivationKind, ...] = ("silu",)
"""Activations that are not fused, or not always: see Parameters.silu_fraction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Predicted latency of one batch: device time without transfers.

    Attributes:
        latency_ms: The expected latency.
        low_ms, high_ms: The truth lies between them with probability `confidence`.
        has_published_data: Whether latencies at this precision are among the published figures. If not, the
            interval is borrowed from other precisions and reaches down to TF32's latency.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    has_published_data: bool
    confidence: float = INTERVAL_CONFIDENCE


def predict_latency(network: Network, gpu: Gpu, *, precision: Precision, batch: int) -> Prediction:
    """Predict the latency of one batch under TensorRT with a CUDA graph, with an interval.

    Args:
        network: The network to run.
        gpu: Where it runs.
        precision: `int8` means every layer and activation in INT8, depthwise included, as in the published
            figures. No published figure is in `fp32`.
        batch: Images per batch, at least 1.

    Raises:
        DeployError: The batch is not positive, or the GPU's facts do not suffice.
    """
    if batch < 1:
        raise DeployError(
            f"A batch of {batch} has no image.", code="invalid-batch", fix="give a batch of 1 or more"
        )
    model = load_fitted_model()
    rates = compute_rates(gpu, precision, model.parameters)
    kernels = count_kernels(network, unfused=UNFUSED_ACTIVATIONS, channel_granule=rates.channel_granule)
    latency_ms = fastest_ms = compute_batch_ms(kernels, rates, batch)
    if precision == "fp32":
        fastest_ms = compute_batch_ms(kernels, allow_tf32(rates, gpu, model.parameters), batch)
    low, high = model.compute_interval(network, gpu, precision=precision, batch=batch)
    return Prediction(
        latency_ms=latency_ms,
        low_ms=fastest_ms * low,
        high_ms=latency_ms * high,
        has_published_data=precision in model.precisions,
    )


def can_predict(gpu: Gpu, precision: Precision = "fp16") -> bool:
    """Return whether the GPU's facts suffice for a prediction."""
    try:
        compute_rates(gpu, precision, load_fitted_model().parameters)
    except DeployError:
        return False
    return True


def compute_batch_ms(kernels: Iterable[tuple[Kernel, int]], rates: Rates, batch: int) -> float:
    """Return the latency of one batch: every kernel in turn, as often as it runs."""
    return sum(count * _compute_kernel_s(kernel, rates, batch) for kernel, count in kernels) * 1e3


def _compute_kernel_s(kernel: Kernel, rates: Rates, batch: int) -> float:
    # A kernel with few outputs takes as long as one that just fills the GPU. Adding them keeps this smooth.
    images = batch + rates.busy_outputs / kernel.written_elements
    elements = (kernel.read_elements + kernel.written_elements) * batch + kernel.weight_elements
    compute_s = 2 * kernel.macs * images / rates.flop_s(kernel.kind)
    memory_s = elements * rates.element_bytes / rates.bytes_s
    # The smooth maximum of arithmetic and traffic.
    kernel_s = rates.launch_s + math.sqrt(compute_s * compute_s + memory_s * memory_s)
    return rates.cost_share(kernel.kind) * kernel_s
