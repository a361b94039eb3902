"""The roofline of a GPU, from its datasheet."""

from deploykit.bench.layers.roofline import Roofline
from deploykit.engine.targets import AMPERE_SM
from deploykit.gpu_catalog.gpus import Gpu, find_gpu
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision


def look_up_gpu_roofline(name: str) -> Roofline | None:
    """Return the roofline of a GPU by its driver's name; None if its memory bandwidth is unknown."""
    try:
        gpu = find_gpu(name)
    except DeployError:
        return None
    if gpu.memory_bandwidth_gb_s is None:
        return None
    return Roofline(
        macs_per_s={precision: 1e12 * tflops / 2 for precision, tflops in _peaks(gpu).items() if tflops},
        bytes_per_s=((1, 1e9 * gpu.memory_bandwidth_gb_s),),
    )


def _peaks(gpu: Gpu) -> dict[Precision, float | None]:
    """Return the peak operations per second, multiplications and additions, in 1e12.

    From SM80 on, TensorRT computes FP32 with TF32 tensor cores, which the datasheets here do not list.
    """
    has_tf32 = gpu.sm is None or gpu.sm >= AMPERE_SM
    return {
        "fp32": None if has_tf32 else gpu.fp32_tflops,
        "fp16": gpu.fp16_tensor_tflops,
        "int8": gpu.int8_tensor_tops or gpu.int8_dp4a_tops,
    }
