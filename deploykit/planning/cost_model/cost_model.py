"""How long one batch takes on a GPU that isn't here: a roofline a kernel, fitted to published latencies.

A kernel takes a launch plus the smooth maximum of two times: its arithmetic at a sustained fraction of
the peak, and its traffic at a sustained fraction of the bandwidth. docs/cost-model.md has the fit and its
errors; benchmarks/fit_cost_model.py makes cost_model.json.

References:
    Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
    Architectures", CACM 52(4), 2009.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from deploykit.gpu_catalog.gpus import Gpu, require_facts
from deploykit.networks.architecture.network import ActivationKind, Network
from deploykit.planning.cost_model.kernels import Kernel, KernelKind, kernel_counts
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_json
from deploykit.util.types import Precision

CONFIDENCE = 0.9
ELEMENT_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
MATRIX_PEAK: Mapping[Precision, str] = {  # the fact that bounds convolutions and matrix products
    "fp32": "fp32_tflops",
    "fp16": "fp16_tensor_tflops",
    "int8": "int8_tensor_tops",
}
# Channels are padded to a multiple of this. Source: TensorRT's TensorFormat, kHWC8 (FP16) and kCHW32 (INT8).
CHANNEL_GRANULE: Mapping[Precision, int] = {"fp32": 1, "fp16": 8, "int8": 32}
AMPERE_SM, ADA_SM = 80, 89
# With less a GPU can't hold its boost clock. What a V100 has, 300 W / (80 SMs x 1.53 GHz), and an RTX 4090,
# 450 W / (128 x 2.52 GHz), whose published PyTorch latencies leave no room for a lower clock.
UNTHROTTLED_W_PER_SM_GHZ, UNTHROTTLED_W_PER_SM_GHZ_FROM_ADA = 2.45, 1.40
# A T4 has 1.10 W and holds 900 of its 1590 MHz: (1.10 / 2.45) ** 0.71 of them; see its entry in gpus.toml.
THROTTLE_EXPONENT = 0.71
# An interval's width, as a logarithm, grows by this share for each doubling of the batch or of the work of an
# image beyond what was published. Source: docs/cost-model.md, "Beyond the figures".
WIDER_PER_DOUBLING = 0.2
UNFUSED: tuple[ActivationKind, ...] = ("silu",)  # wholly or in part: see Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What the fit finds; the same for every GPU.

    Attributes:
        tensor_fraction: of the tensor cores' peak that convolutions and matrix products sustain.
        cuda_fraction: of the CUDA cores' peak that they sustain where tensor cores can't run them.
        grouped_fraction: of what other convolutions sustain, in those of a few groups.
        depthwise_fraction: of the FP32 peak that depthwise convolutions sustain in FP16; twice that in INT8.
        bandwidth_fraction: of the peak bandwidth that is sustained.
        launch_us: from one kernel's end to the next one's work, in a CUDA graph as most figures are.
        outputs_per_sm: outputs an SM needs at once to be busy; with fewer, the arithmetic waits.
        silu_fraction: of a kernel of its own that a SiLU costs in FP16: some are fused.
        silu_fraction_int8: the same in INT8.
        int8_slowdown: times that INT8 kernels take where tensor cores are older than Ampere's.
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


Factors = tuple[float, float]
"""Of a prediction, between which the truth is with probability CONFIDENCE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """cost_model.json.

    Attributes:
        parameters: what the fit found.
        gpus: on which EfficientNets are among the published figures.
        families: of the published figures.
        precisions: of the published figures; another's predictions have none behind them.
        largest_batch, smallest_macs, largest_macs: of the published figures; MACs of an image.
        interval_measured: of EfficientNets on `gpus` at `precisions`, from fits that never saw the network
            there.
        interval_elsewhere: of `families` on other GPUs, from fits that never saw the GPU.
        interval_unfamiliar: of other families and other precisions, from fits that saw neither GPU nor
            family.
    """

    parameters: Parameters
    gpus: tuple[str, ...]
    families: tuple[str, ...]
    precisions: tuple[Precision, ...]
    largest_batch: int
    smallest_macs: int
    largest_macs: int
    interval_measured: Factors
    interval_elsewhere: Factors
    interval_unfamiliar: Factors

    def interval(self, network: Network, gpu: Gpu, *, precision: Precision, batch: int) -> Factors:
        """As wide as fits like this one were wrong, and wider the further off the published figures."""
        if network.family not in self.families or precision not in self.precisions:
            factors = self.interval_unfamiliar
        elif network.family == "efficientnet" and gpu.name in self.gpus:
            factors = self.interval_measured
        else:
            factors = self.interval_elsewhere
        doublings = (
            _doublings(batch, self.largest_batch)
            + _doublings(network.macs, self.largest_macs)
            + _doublings(self.smallest_macs, network.macs)
        )
        wider = 1 + WIDER_PER_DOUBLING * doublings
        return factors[0] ** wider, factors[1] ** wider


def _doublings(value: float, limit: float) -> float:
    return max(0.0, math.log2(value / limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Latency of one batch, milliseconds: device time, no transfers.

    Attributes:
        latency_ms: the best guess.
        low_ms, high_ms: the truth is in between with probability `confidence`.
        has_figures: whether latencies at its precision are among the published figures; without, the interval
            is borrowed from precisions that have some, and reaches down to TF32's.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    has_figures: bool
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a GPU sustains at one precision.

    Attributes:
        matrix_flop_s, grouped_flop_s, depthwise_flop_s: floating-point or integer operations a second.
        bytes_s: memory traffic.
        element_bytes: size of an activation or weight.
        channel_granule: channels are padded to a multiple of it.
        launch_s: cost of a kernel beside its work.
        busy_outputs: a kernel takes at least the time of so many outputs, which keep every SM busy.
        activation_share: of a kernel's cost that an activation of its own has.
    """

    matrix_flop_s: float
    grouped_flop_s: float
    depthwise_flop_s: float
    bytes_s: float
    element_bytes: int
    channel_granule: int
    launch_s: float
    busy_outputs: float
    activation_share: float

    def flop_s(self, kind: KernelKind) -> float:
        return {"grouped": self.grouped_flop_s, "depthwise": self.depthwise_flop_s}.get(
            kind, self.matrix_flop_s
        )

    def share(self, kind: KernelKind) -> float:
        return self.activation_share if kind == "activation" else 1.0


def predict_latency(network: Network, gpu: Gpu, *, precision: Precision, batch: int) -> Prediction:
    """Latency of one batch of `network` on `gpu` with TensorRT and a CUDA graph, with an interval.

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
        raise DeployError(
            f"A batch has at least one image, not {batch}.",
            code="invalid-batch",
            fix="give a batch of 1 or more",
        )
    model = calibration()
    rates = sustained_rates(gpu, precision, model.parameters)
    latency_ms = batch_ms(rated_kernels(network, rates), rates, batch)
    low, high = model.interval(network, gpu, precision=precision, batch=batch)
    fastest = with_tf32(rates, gpu, model.parameters) if precision == "fp32" else rates
    return Prediction(
        latency_ms=latency_ms,
        low_ms=batch_ms(rated_kernels(network, fastest), fastest, batch) * low,
        high_ms=latency_ms * high,
        has_figures=precision in model.precisions,
    )


@cache
def calibration() -> Calibration:
    """The committed fit."""
    text = resources.files("deploykit.planning.cost_model").joinpath("cost_model.json").read_bytes()
    return from_json(text, Calibration)


def sustained_rates(gpu: Gpu, precision: Precision, parameters: Parameters) -> Rates:
    """What `gpu` sustains; where its tensor cores have no INT8, INT8 gains nothing over FP16.

    There the products run as DP4A on the CUDA cores, and traffic and fusion stay as in FP16.
    """
    stored = stored_precision(gpu, precision)
    matrix_fact = MATRIX_PEAK[precision] if stored == precision else "int8_dp4a_tops"
    sms, bandwidth_gb_s, fp32_tflops, matrix_tflops, *_ = require_facts(
        gpu, "sm_count", "memory_bandwidth_gb_s", "fp32_tflops", matrix_fact, *_clock_facts(gpu)
    )
    is_int8 = stored == "int8"
    slowdown = parameters.int8_slowdown if is_int8 and (gpu.sm or AMPERE_SM) < AMPERE_SM else 1.0
    unloaded, loaded = clock_fractions(gpu)
    flop_s = loaded * 1e12 / slowdown
    on_tensor_cores = "tensor" in matrix_fact
    matrix_fraction = parameters.tensor_fraction if on_tensor_cores else parameters.cuda_fraction
    matrix_flop_s = matrix_tflops * matrix_fraction * flop_s
    narrower = ELEMENT_BYTES["fp16"] / ELEMENT_BYTES[stored]
    return Rates(
        matrix_flop_s=matrix_flop_s,
        grouped_flop_s=matrix_flop_s * parameters.grouped_fraction,
        depthwise_flop_s=fp32_tflops * parameters.depthwise_fraction * narrower * flop_s,
        bytes_s=bandwidth_gb_s * parameters.bandwidth_fraction * 1e9 / slowdown,
        element_bytes=ELEMENT_BYTES[stored],
        channel_granule=CHANNEL_GRANULE[stored],
        launch_s=parameters.launch_us * 1e-6,
        # SMs that wait draw little power: what fills the GPU up runs at the clock of one hardly busy.
        busy_outputs=parameters.outputs_per_sm * sms * loaded / unloaded,
        activation_share=parameters.silu_fraction_int8 if is_int8 else parameters.silu_fraction,
    )


def stored_precision(gpu: Gpu, precision: Precision) -> Precision:
    """What weights and activations are stored as: without INT8 tensor cores INT8's stay FP16."""
    return "fp16" if precision == "int8" and gpu.int8_dp4a_tops is not None else precision


def with_tf32(rates: Rates, gpu: Gpu, parameters: Parameters) -> Rates:
    """FP32's, had TensorRT all its products on tensor cores in TF32, as it may from Ampere on.

    Half the FP16 peak: NVIDIA A100, H100, GA102 and Ada whitepapers.
    """
    if (gpu.sm or AMPERE_SM) < AMPERE_SM or gpu.fp16_tensor_tflops is None:
        return rates
    matrix_flop_s = max(rates.matrix_flop_s, sustained_rates(gpu, "fp16", parameters).matrix_flop_s / 2)
    return replace(
        rates, matrix_flop_s=matrix_flop_s, grouped_flop_s=matrix_flop_s * parameters.grouped_fraction
    )


def _clock_facts(gpu: Gpu) -> tuple[str, ...]:
    return ("boost_mhz",) if gpu.sustained_mhz is not None else ("boost_mhz", "sm_count", "tdp_w")


def clock_fractions(gpu: Gpu) -> tuple[float, float]:
    """Clocks as fractions of boost: of a GPU that is hardly busy, and under sustained load.

    The first is less than 1 where a power mode caps the clock; the second is what somebody saw, or what the
    power allows.

    Raises:
        DeployError: the GPU's facts don't suffice.
    """
    boost_mhz, *limit = require_facts(gpu, *_clock_facts(gpu))
    at_most = 1.0 if gpu.mode_mhz is None else min(1.0, gpu.mode_mhz / boost_mhz)
    if gpu.sustained_mhz is not None:
        return at_most, min(at_most, gpu.sustained_mhz / boost_mhz)
    sms, tdp_w = limit
    is_ada = gpu.sm is not None and gpu.sm >= ADA_SM
    wanted_w = UNTHROTTLED_W_PER_SM_GHZ_FROM_ADA if is_ada else UNTHROTTLED_W_PER_SM_GHZ
    w_per_sm_ghz = tdp_w / (sms * boost_mhz * 1e-3)
    return at_most, min(at_most, math.pow(w_per_sm_ghz / wanted_w, THROTTLE_EXPONENT))


def rated_kernels(network: Network, rates: Rates) -> tuple[tuple[Kernel, int], ...]:
    """The kernels of `network` at the precision of `rates`, with how often each runs."""
    return kernel_counts(network, unfused=UNFUSED, channel_granule=rates.channel_granule)


def batch_ms(kernels: Iterable[tuple[Kernel, int]], rates: Rates, batch: int) -> float:
    """Latency of one batch: every kernel in turn, as often as it runs."""
    return sum(count * _kernel_s(kernel, rates, batch) for kernel, count in kernels) * 1e3


def _kernel_s(kernel: Kernel, rates: Rates, batch: int) -> float:
    # However few its outputs, a kernel takes as long as one that just fills the GPU; the sum is smooth.
    images = batch + rates.busy_outputs / kernel.written_elements
    elements = (kernel.read_elements + kernel.written_elements) * batch + kernel.weight_elements
    return rates.share(kernel.kind) * kernel_s(
        compute_s=2 * kernel.macs * images / rates.flop_s(kernel.kind),
        memory_s=elements * rates.element_bytes / rates.bytes_s,
        launch_s=rates.launch_s,
    )


def kernel_s(*, compute_s: float, memory_s: float, launch_s: float) -> float:
    """A launch, and the smooth maximum of arithmetic and traffic; plain arithmetic, so that arrays do too."""
    return launch_s + math.sqrt(compute_s * compute_s + memory_s * memory_s)


def can_predict(gpu: Gpu, precision: Precision = "fp16") -> bool:
    """Whether enough is known of the GPU."""
    try:
        sustained_rates(gpu, precision, calibration().parameters)
    except DeployError:
        return False
    return True
