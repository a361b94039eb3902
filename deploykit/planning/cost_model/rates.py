"""Sustained rates of a GPU: arithmetic, memory traffic and kernel launches at one precision."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from deploykit.gpu_catalog.gpus import Gpu, require_facts
from deploykit.planning.cost_model.fitted_model import Parameters
from deploykit.planning.cost_model.kernels import KernelKind
from deploykit.util.types import Precision

ELEMENT_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
# The fact of a GPU that bounds convolutions and matrix products.
MATRIX_PEAK: Mapping[Precision, str] = {
    "fp32": "fp32_tflops",
    "fp16": "fp16_tensor_tflops",
    "int8": "int8_tensor_tops",
}
# Channels are padded to a multiple of this. Source: TensorRT's TensorFormat, kHWC8 (FP16) and kCHW32 (INT8).
CHANNEL_GRANULE: Mapping[Precision, int] = {"fp32": 1, "fp16": 8, "int8": 32}
AMPERE_SM, ADA_SM = 80, 89
# With less power a GPU cannot hold its boost clock. The values are those of a V100, 300 W / (80 SMs x
# 1.53 GHz), and of an RTX 4090, 450 W / (128 x 2.52 GHz), whose published PyTorch latencies leave no room for
# a lower clock.
UNTHROTTLED_W_PER_SM_GHZ, UNTHROTTLED_W_PER_SM_GHZ_FROM_ADA = 2.45, 1.40
# A T4 has 1.10 W and holds 900 of its 1590 MHz: (1.10 / 2.45) ** 0.71 of them; see its entry in gpus.toml.
THROTTLE_EXPONENT = 0.71


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a GPU sustains at one precision.

    Attributes:
        matrix_flop_s, grouped_flop_s, depthwise_flop_s: Floating-point or integer operations per second.
        bytes_s: Memory traffic, bytes per second.
        element_bytes: Size of one activation or weight.
        channel_granule: Channels are padded to a multiple of it.
        launch_s: Cost of a kernel besides its work, seconds.
        busy_outputs: Outputs that keep every SM busy; a kernel takes at least their time.
        activation_share: Share of its cost that an activation kernel takes, because some are fused.
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
        """Return the operations per second of a kind of kernel."""
        return {"grouped": self.grouped_flop_s, "depthwise": self.depthwise_flop_s}.get(
            kind, self.matrix_flop_s
        )

    def cost_share(self, kind: KernelKind) -> float:
        """Return the share of its cost that a kind of kernel takes."""
        return self.activation_share if kind == "activation" else 1.0


def compute_rates(gpu: Gpu, precision: Precision, parameters: Parameters) -> Rates:
    """Return what a GPU sustains at a precision.

    Where tensor cores do not support INT8, its products run as DP4A on the CUDA cores, while traffic and
    fusion stay as in FP16. There INT8 gains nothing over FP16.

    Raises:
        DeployError: The GPU's facts do not suffice.
    """
    stored = storage_precision(gpu, precision)
    matrix_fact = MATRIX_PEAK[precision] if stored == precision else "int8_dp4a_tops"
    sms, bandwidth_gb_s, fp32_tflops, matrix_tflops, *_ = require_facts(
        gpu, "sm_count", "memory_bandwidth_gb_s", "fp32_tflops", matrix_fact, *_clock_facts(gpu)
    )
    is_int8 = stored == "int8"
    slowdown = parameters.int8_slowdown if is_int8 and (gpu.sm or AMPERE_SM) < AMPERE_SM else 1.0
    unloaded, loaded = compute_clock_fractions(gpu)
    flop_s = loaded * 1e12 / slowdown
    on_tensor_cores = "tensor" in matrix_fact
    matrix_fraction = parameters.tensor_fraction if on_tensor_cores else parameters.cuda_fraction
    matrix_flop_s = matrix_tflops * matrix_fraction * flop_s
    narrowing = ELEMENT_BYTES["fp16"] / ELEMENT_BYTES[stored]
    return Rates(
        matrix_flop_s=matrix_flop_s,
        grouped_flop_s=matrix_flop_s * parameters.grouped_fraction,
        depthwise_flop_s=fp32_tflops * parameters.depthwise_fraction * narrowing * flop_s,
        bytes_s=bandwidth_gb_s * parameters.bandwidth_fraction * 1e9 / slowdown,
        element_bytes=ELEMENT_BYTES[stored],
        channel_granule=CHANNEL_GRANULE[stored],
        launch_s=parameters.launch_us * 1e-6,
        # Waiting SMs draw little power, so work that just fills the GPU runs at an unloaded clock.
        busy_outputs=parameters.outputs_per_sm * sms * loaded / unloaded,
        activation_share=parameters.silu_fraction_int8 if is_int8 else parameters.silu_fraction,
    )


def storage_precision(gpu: Gpu, precision: Precision) -> Precision:
    """Return the precision in which weights and activations are stored: FP16 without INT8 tensor cores."""
    return "fp16" if precision == "int8" and gpu.int8_dp4a_tops is not None else precision


def allow_tf32(rates: Rates, gpu: Gpu, parameters: Parameters) -> Rates:
    """Return FP32's rates with every product in TF32 on tensor cores.

    TensorRT may choose TF32 from Ampere on. It has half the FP16 peak.

    References:
        NVIDIA's A100, H100, GA102 and Ada whitepapers.
    """
    if (gpu.sm or AMPERE_SM) < AMPERE_SM or gpu.fp16_tensor_tflops is None:
        return rates
    matrix_flop_s = max(rates.matrix_flop_s, compute_rates(gpu, "fp16", parameters).matrix_flop_s / 2)
    return replace(
        rates, matrix_flop_s=matrix_flop_s, grouped_flop_s=matrix_flop_s * parameters.grouped_fraction
    )


def compute_clock_fractions(gpu: Gpu) -> tuple[float, float]:
    """Return the clocks of a mostly idle GPU and of one under sustained load, as fractions of boost.

    The first is below 1 where a power mode caps the clock. The second is an observed clock if the catalog has
    one, otherwise what the power limit allows.

    Raises:
        DeployError: The GPU's facts do not suffice.
    """
    boost_mhz, *limit = require_facts(gpu, *_clock_facts(gpu))
    unloaded = 1.0 if gpu.mode_mhz is None else min(1.0, gpu.mode_mhz / boost_mhz)
    if gpu.sustained_mhz is not None:
        return unloaded, min(unloaded, gpu.sustained_mhz / boost_mhz)
    sms, tdp_w = limit
    is_ada = gpu.sm is not None and gpu.sm >= ADA_SM
    unthrottled = UNTHROTTLED_W_PER_SM_GHZ_FROM_ADA if is_ada else UNTHROTTLED_W_PER_SM_GHZ
    w_per_sm_ghz = tdp_w / (sms * boost_mhz * 1e-3)
    return unloaded, min(unloaded, math.pow(w_per_sm_ghz / unthrottled, THROTTLE_EXPONENT))


def _clock_facts(gpu: Gpu) -> tuple[str, ...]:
    return ("boost_mhz",) if gpu.sustained_mhz is not None else ("boost_mhz", "sm_count", "tdp_w")
