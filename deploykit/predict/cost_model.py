"""How long one batch takes on a GPU that isn't here: a roofline a kernel, fitted to published latencies.

A kernel takes a launch plus the smooth maximum of two times: its arithmetic at a sustained fraction of
the peak, and its traffic at a sustained fraction of the bandwidth. docs/cost-model.md has the fit and its
errors; benchmarks/fit_cost_model.py makes cost_model.json.

References:
    Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
    Architectures", CACM 52(4), 2009.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from deploykit.architecture.graph import ActivationKind, Network
from deploykit.errors import DeployError
from deploykit.predict.gpus import Gpu, require_facts
from deploykit.predict.kernels import Kernel, kernel_counts

Precision = Literal["fp32", "fp16", "int8"]

CONFIDENCE = 0.9
ELEMENT_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
MATRIX_PEAK: Mapping[Precision, str] = {  # the fact that bounds convolutions and matrix products
    "fp32": "fp32_tflops",
    "fp16": "fp16_tensor_tflops",
    "int8": "int8_tensor_tops",
}
# Channels are padded to a multiple of this. Source: TensorRT's TensorFormat, kHWC8 (FP16) and kCHW32 (INT8).
CHANNEL_GRANULE: Mapping[Precision, int] = {"fp32": 1, "fp16": 8, "int8": 32}
# What a V100 has, 300 W / (80 SMs x 1.53 GHz). With less a GPU can't hold its boost clock.
UNTHROTTLED_W_PER_SM_GHZ = 2.45
# SiLU is in the convolution's epilogue in INT8 alone: on an A100 at batch 64, swapping EfficientNetV2-S's
# SiLU for ReLU6 saves 17 % in FP16 and 7 % in INT8. Source: google/automl, efficientnetv2/g3doc,
# effnetv2-s-gpu.png and effnetv2-s-relu6-gpu.png.
UNFUSED_OUTSIDE_INT8: tuple[ActivationKind, ...] = ("silu",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What the fit finds; the same for every GPU.

    Attributes:
        tensor_fraction: of the tensor cores' peak that convolutions and matrix products sustain.
        cuda_fraction: of the CUDA cores' peak that they sustain where tensor cores can't run them.
        depthwise_fraction: of the FP32 peak that depthwise convolutions sustain in FP16; twice that in INT8.
        bandwidth_fraction: of the peak bandwidth that is sustained.
        launch_us: from one kernel's end to the next one's work, under a CUDA graph.
        outputs_per_sm: outputs an SM needs at once to be busy; with fewer, the arithmetic waits.
        throttle_exponent: clock under load, as a power of the watts for an SM and a GHz.
    """

    tensor_fraction: float
    cuda_fraction: float
    depthwise_fraction: float
    bandwidth_fraction: float
    launch_us: float
    outputs_per_sm: float
    throttle_exponent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """cost_model.json.

    Attributes:
        parameters: what the fit found.
        measured: GPUs on which EfficientNets are among the published figures.
        interval_elsewhere: (low, high) factors, from fits that never saw the GPU.
        interval_measured: the same for EfficientNets there in FP16 and INT8, from fits that never saw
            the network there.
    """

    parameters: Parameters
    measured: tuple[str, ...]
    interval_elsewhere: tuple[float, float]
    interval_measured: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Latency of one batch, milliseconds: device time under a CUDA graph, no transfers.

    Attributes:
        latency_ms: the best guess.
        low_ms, high_ms: the truth is in between with probability `confidence`.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a GPU sustains at one precision.

    Attributes:
        matrix_flop_s, depthwise_flop_s: floating-point or integer operations a second.
        bytes_s: memory traffic.
        element_bytes: size of an activation or weight.
        channel_granule: channels are padded to a multiple of it.
        launch_s: cost of a kernel beside its work.
        busy_outputs: outputs at once that keep every SM busy.
        unfused: activations that run as kernels of their own.
    """

    matrix_flop_s: float
    depthwise_flop_s: float
    bytes_s: float
    element_bytes: int
    channel_granule: int
    launch_s: float
    busy_outputs: float
    unfused: tuple[ActivationKind, ...]


def predict_latency(network: Network, gpu: Gpu, *, precision: Precision, batch: int) -> Prediction:
    """Latency of one batch of `network` on `gpu` with TensorRT, with an interval.

    Args:
        network: what is to run.
        gpu: where.
        precision: `int8` has every layer and every activation in INT8, depthwise included, as the
            published figures do. `fp32` has no published figure behind it.
        batch: images at once.

    Raises:
        DeployError: the batch isn't positive, or the GPU's facts don't suffice.
    """
    if batch < 1:
        raise DeployError(f"A batch has at least one image, not {batch}.", fix="give a batch of 1 or more")
    model = calibration()
    rates = sustained_rates(gpu, precision, model.parameters)
    latency_ms = batch_ms(rated_kernels(network, rates), rates, batch)
    seen = network.family == "efficientnet" and gpu.name in model.measured and precision != "fp32"
    low, high = model.interval_measured if seen else model.interval_elsewhere
    return Prediction(latency_ms=latency_ms, low_ms=latency_ms * low, high_ms=latency_ms * high)


@cache
def calibration() -> Calibration:
    """The committed fit."""
    data = json.loads(resources.files("deploykit.predict").joinpath("cost_model.json").read_text("utf-8"))
    return Calibration(
        parameters=Parameters(**data["parameters"]),
        measured=tuple(data["measured"]),
        interval_elsewhere=tuple(data["interval"]["elsewhere"]),
        interval_measured=tuple(data["interval"]["measured"]),
    )


def sustained_rates(gpu: Gpu, precision: Precision, parameters: Parameters) -> Rates:
    """What `gpu` sustains; where its tensor cores have no INT8, INT8 gains nothing over FP16.

    There the products run as DP4A on the CUDA cores, and traffic and fusion stay as in FP16.
    """
    lacks_int8 = precision == "int8" and gpu.int8_dp4a_tops is not None
    matrix_fact = "int8_dp4a_tops" if lacks_int8 else MATRIX_PEAK[precision]
    sms, boost_mhz, tdp_w, bandwidth_gb_s, fp32_tflops, matrix_tflops = require_facts(
        gpu, "sm_count", "boost_mhz", "tdp_w", "memory_bandwidth_gb_s", "fp32_tflops", matrix_fact
    )
    on_tensor_cores = "tensor" in matrix_fact
    matrix_fraction = parameters.tensor_fraction if on_tensor_cores else parameters.cuda_fraction
    stored: Precision = "fp16" if lacks_int8 else precision
    element_bytes = ELEMENT_BYTES[stored]
    clock = _clock_fraction(tdp_w / (sms * boost_mhz * 1e-3), parameters.throttle_exponent)
    depthwise_tflops = fp32_tflops * parameters.depthwise_fraction * ELEMENT_BYTES["fp16"] / element_bytes
    return Rates(
        matrix_flop_s=matrix_tflops * matrix_fraction * clock * 1e12,
        depthwise_flop_s=depthwise_tflops * clock * 1e12,
        bytes_s=bandwidth_gb_s * parameters.bandwidth_fraction * 1e9,
        element_bytes=element_bytes,
        channel_granule=CHANNEL_GRANULE[stored],
        launch_s=parameters.launch_us * 1e-6,
        busy_outputs=parameters.outputs_per_sm * sms,
        unfused=() if stored == "int8" else UNFUSED_OUTSIDE_INT8,
    )


def rated_kernels(network: Network, rates: Rates) -> tuple[tuple[Kernel, int], ...]:
    """The kernels of `network` at the precision of `rates`, with how often each runs."""
    return kernel_counts(network, unfused=rates.unfused, channel_granule=rates.channel_granule)


def batch_ms(kernels: Iterable[tuple[Kernel, int]], rates: Rates, batch: int) -> float:
    """Latency of one batch: every kernel in turn, as often as it runs."""
    return sum(count * _kernel_s(kernel, rates, batch) for kernel, count in kernels) * 1e3


def _kernel_s(kernel: Kernel, rates: Rates, batch: int) -> float:
    peak = rates.depthwise_flop_s if kernel.kind == "depthwise" else rates.matrix_flop_s
    # However few its outputs, a kernel takes as long as one that just fills the GPU; the sum is smooth.
    images = batch + rates.busy_outputs / kernel.written_elements
    compute_s = 2 * kernel.macs * images / peak
    elements = (kernel.read_elements + kernel.written_elements) * batch + kernel.weight_elements
    memory_s = elements * rates.element_bytes / rates.bytes_s
    return rates.launch_s + math.hypot(compute_s, memory_s)


def _clock_fraction(w_per_sm_ghz: float, exponent: float) -> float:
    """Clock under sustained load, as a fraction of boost."""
    return min(1.0, math.pow(w_per_sm_ghz / UNTHROTTLED_W_PER_SM_GHZ, exponent))


def can_predict(gpu: Gpu) -> bool:
    """Whether enough is known of the GPU to predict FP16."""
    try:
        sustained_rates(gpu, "fp16", calibration().parameters)
    except DeployError:
        return False
    return True
