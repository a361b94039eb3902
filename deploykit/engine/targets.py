"""What an engine is compiled for, and which compiler does it."""

import re
from dataclasses import dataclass
from typing import get_args

from deploykit.engine.compilers import COMPILERS, Compiler, is_installed
from deploykit.gpu_catalog.gpus import Gpu, find_gpu
from deploykit.onnx_tools.ort_session import has_cuda
from deploykit.quantize.placement import Placement, Policy
from deploykit.util.errors import DeployError
from deploykit.util.local_gpu import LocalGpu, local_gpu
from deploykit.util.types import Precision

CPU, LOCAL, PORTABLE = "cpu", "local", "portable"
AMPERE_SM = 80  # from here on TensorRT builds engines for all that follow, if asked to

# tensorrt_rtx.ComputeCapability's members, 1.7. SM70, SM90 and SM100 are not among them.
AHEAD_OF_TIME_SMS = (75, 80, 86, 89, 120, 121)
# Seen in its builder's log, 1.7: Q/DQ convolutions are dequantized and computed in FP16.
SMS_WITHOUT_INT8_CONVOLUTIONS = frozenset({75})
# Without a compute capability the engine covers these, and what comes after the last.
PORTABLE_SMS = (80, 86, 89, 120)
PORTABLE_TITLE = "GPUs of SM80, 86, 89, 120 and later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an engine is compiled for.

    Attributes:
        name: the GPU's, `CPU`, or `portable`.
        sm: compute capability to compile for, 75 for 7.5; None for the CPU and the portable engine.
        hardware_compatible: TensorRT's engines run on one model of GPU alone; these on more.
        note: a sentence the user should read, or None.
    """

    name: str
    compiler: Compiler
    sm: int | None = None
    hardware_compatible: bool = False
    note: str | None = None

    @property
    def label(self) -> str:
        """As file names have it: `sm75`, `portable`, `cpu`."""
        return f"sm{self.sm}" if self.sm is not None else self.name.lower()

    @property
    def compiler_title(self) -> str:
        """As messages have it: `TensorRT-RTX`."""
        return COMPILERS[self.compiler].title

    @property
    def title(self) -> str:
        """As messages have it: `T4 (SM75)`."""
        if self.sm is not None:
            return f"{self.name} (SM{self.sm})"
        return PORTABLE_TITLE if self.name == "portable" else "the CPU"

    @property
    def on_cpu(self) -> bool:
        """Whether it is for no GPU."""
        return self.compiler == "onnxruntime" and self.sm is None

    def runs_on(self, gpu: LocalGpu) -> bool:
        """Whether that GPU runs the engine."""
        sm = gpu.sm
        if self.compiler == "onnxruntime":
            return True
        if self.compiler == "tensorrt":
            if not self.hardware_compatible:
                return (gpu.name, sm) == (self.name, self.sm)
            return sm == self.sm or (self.sm is not None and min(sm, self.sm) >= AMPERE_SM)
        if self.sm is not None:
            return sm == self.sm
        return self.name == "portable" and (sm in PORTABLE_SMS or sm > PORTABLE_SMS[-1])


def resolve_target(gpu: str | Gpu | None, compiler: Compiler | None = None) -> Target:
    """The target a user means by --gpu and --compiler.

    Args:
        gpu: a GPU or its name, `cpu`, `portable`, `local`, or None: the local GPU, else the portable engine.
        compiler: None for the one that fits; the target's note says why.

    Raises:
        DeployError: unknown GPU, none here though `local` was asked for, or one no compiler here builds for.
    """
    if compiler not in (None, *COMPILERS):
        raise DeployError(
            f"There is no compiler {compiler}.",
            code="unknown-compiler",
            fix=f"take one of {', '.join(COMPILERS)}",
        )
    if isinstance(gpu, Gpu):
        return _for_model(gpu, gpu.name, compiler)
    on_cpu = gpu is not None and gpu.lower() == CPU
    if on_cpu or (gpu is None and compiler == "onnxruntime"):
        if compiler not in (None, "onnxruntime"):
            raise DeployError(
                f"{COMPILERS[compiler].title} compiles for NVIDIA GPUs, not for the CPU.",
                code="compiler-target-mismatch",
                fix="leave out --compiler, or name a GPU",
            )
        return Target(name="CPU", compiler="onnxruntime")
    if gpu is not None and gpu.lower() == PORTABLE:
        if compiler not in (None, "tensorrt-rtx"):
            raise DeployError(
                f"{COMPILERS[compiler].title} builds no portable engines.",
                code="compiler-target-mismatch",
                fix="leave out --compiler",
            )
        return Target(
            name=PORTABLE,
            compiler="tensorrt-rtx",
            note=f"Compiling with TensorRT-RTX, for {PORTABLE_TITLE}; a T4 (SM75) needs --gpu T4.",
        )
    if gpu is None or gpu.lower() == LOCAL:
        return _local(required=gpu is not None, compiler=compiler)
    return _for_model(find_gpu(gpu), gpu, compiler)


def resolve_precision(target: Target, asked: Precision | None) -> Precision:
    """What to build where the user may not have said: FP16, and FP32 on the CPU.

    Raises:
        DeployError: one there is not, or one that ONNX Runtime would compute in another: FP16 on CPUs, which
            have no such arithmetic, and INT8 on GPUs, where it has no integer convolutions
            (microsoft/onnxruntime#12229).
    """
    if asked not in (None, *get_args(Precision)):
        raise DeployError(
            f"There is no precision {asked}.",
            code="unknown-precision",
            fix=f"take one of {', '.join(get_args(Precision))}",
        )
    if target.on_cpu and asked == "fp16":
        raise DeployError(
            "ONNX Runtime has no FP16 arithmetic on CPUs and would compute in FP32.",
            code="precision-unsupported",
            fix="take FP32 or INT8",
        )
    if target.compiler == "onnxruntime" and not target.on_cpu and asked == "int8":
        raise DeployError(
            "ONNX Runtime has no INT8 convolutions on GPUs and would compute them in floating point.",
            code="precision-unsupported",
            fix="take FP16 or FP32, or another --compiler",
        )
    return asked or ("fp32" if target.on_cpu else "fp16")


def _local(*, required: bool, compiler: Compiler | None) -> Target:
    gpu = local_gpu()
    if gpu is not None:
        return _for_gpu_here(gpu, compiler)
    if required or compiler == "tensorrt":
        raise DeployError(
            "This machine shows no NVIDIA GPU.",
            code="gpu-not-found",
            fix="leave out --compiler, or build on the machine with the GPU"
            if compiler == "tensorrt"
            else "name the GPU to build for, as in --gpu T4, or use --gpu cpu",
        )
    return Target(
        name="portable",
        compiler="tensorrt-rtx",
        note=f"No GPU here and none named: building the portable engine with TensorRT-RTX, for "
        f"{PORTABLE_TITLE}; a T4 (SM75) needs --gpu T4.",
    )


def _for_model(gpu: Gpu, name: str, compiler: Compiler | None) -> Target:
    """The GPU here, if it is that, by the name it was called; else one that is compiled for ahead of time."""
    here = local_gpu()
    if here is not None and gpu.sm == here.sm and _words(name) <= _words(here.name):
        return _for_gpu_here(here, compiler)
    if compiler in ("tensorrt", "onnxruntime"):
        raise DeployError(
            f"{COMPILERS[compiler].title} compiles for the GPU of its machine alone, and {gpu.name} is not "
            "here.",
            code="compiler-target-mismatch",
            fix="leave out --compiler, or build on a machine with that GPU",
        )
    if gpu.sm is None:
        raise DeployError(
            f"Nobody can compile for {gpu.name}, which has an unknown compute capability.",
            code="gpu-facts-missing",
            fix="""add compute_capability = "8.9", or what it is, to its description""",
        )
    return _ahead_of_time(gpu.name, gpu.sm)


def _for_gpu_here(gpu: LocalGpu, compiler: Compiler | None) -> Target:
    """TensorRT where it is the documented compiler and installed, or the only one; ONNX Runtime at last."""
    fits_rtx = gpu.sm in AHEAD_OF_TIME_SMS
    has_tensorrt = is_installed("tensorrt")
    if compiler == "tensorrt" or (compiler is None and has_tensorrt and not (fits_rtx and "RTX" in gpu.name)):
        why = None
        if compiler is None:
            why = (
                "NVIDIA documents it for data-centre GPUs" if fits_rtx else "TensorRT-RTX has no such target"
            )
            why = f"Compiling with TensorRT for {gpu.name}: {why}."
        return Target(name=gpu.name, compiler="tensorrt", sm=gpu.sm, note=why)
    if compiler == "onnxruntime":
        return Target(name=gpu.name, compiler="onnxruntime", sm=gpu.sm)
    if compiler is None and not fits_rtx and is_installed("onnxruntime") and has_cuda():
        return Target(
            name=gpu.name,
            compiler="onnxruntime",
            sm=gpu.sm,
            note=f"Compiling for {gpu.name} with ONNX Runtime's CUDA provider: TensorRT-RTX has no such "
            "target, and TensorRT is not installed.",
        )
    why = "since TensorRT is not installed" if compiler is None else "as asked"
    return _ahead_of_time(gpu.name, gpu.sm, why=why)


def _words(name: str) -> set[str]:
    """`A100 SXM4` is among those of `NVIDIA A100-SXM4-40GB`."""
    return set(re.split(r"[\s-]+", name.lower()))


def _ahead_of_time(name: str, sm: int, *, why: str = "which needs none here") -> Target:
    if sm not in AHEAD_OF_TIME_SMS:
        raise DeployError(
            f"TensorRT-RTX can't compile for {name} (SM{sm}), only for "
            f"{', '.join(f'SM{each}' for each in AHEAD_OF_TIME_SMS)}.",
            code="compiler-target-mismatch",
            fix="take the ONNX model to that GPU and build there with NVIDIA's tensorrt or with --compiler "
            "onnxruntime, or use --gpu cpu",
        )
    note = _what_nvidia_documents(name, sm, why=why)
    return Target(name=name, compiler="tensorrt-rtx", sm=sm, note=note)


def _what_nvidia_documents(name: str, sm: int, *, why: str) -> str:
    if "RTX" in name:
        return f"Compiling for {name} with TensorRT-RTX, NVIDIA's own for RTX GPUs."
    return (
        f"Compiling for {name} with TensorRT-RTX, {why}. NVIDIA documents it for RTX GPUs, "
        f"whose compute capability (SM{sm}) {name} shares; its documented compiler for data-centre cards is "
        "tensorrt."
    )


def resolve_int8_policy(target: Target, asked: Policy | None = None) -> Policy:
    """What is in INT8: what was asked for, else what the compilers make fast.

    Raises:
        DeployError: the compiler has no integer kernels for it.
    """
    if not lacks_int8_convolutions(target):
        return asked or COMPILERS[target.compiler].int8_policy
    if asked not in (None, "pointwise"):
        raise DeployError(
            f"For {target.title} {target.compiler_title} computes matrix products alone in integers, and "
            f"of convolutions only pointwise ones are those: policy {asked} needs more.",
            code="precision-unsupported",
            fix="leave out --int8-policy, or build for another GPU",
        )
    return "pointwise"


def require_int8_kernels(target: Target, placement: Placement) -> None:
    """Fails where the compiler has no integer kernels for a layer that the user adds to the policy's.

    Raises:
        DeployError: it has none.
    """
    others = [node.output for node in placement.products if not node.is_matrix_product]
    if others and lacks_int8_convolutions(target):
        raise DeployError(
            f"For {target.title} {target.compiler_title} computes matrix products alone in integers, and "
            f"{others[0]} is none.",
            code="precision-unsupported",
            fix="leave it out of --int8-include, or build for another GPU",
        )


def lacks_int8_convolutions(target: Target) -> bool:
    """Whether its compiler has integers for matrix products and for no other convolutions."""
    return target.on_cpu or (target.compiler == "tensorrt-rtx" and target.sm in SMS_WITHOUT_INT8_CONVOLUTIONS)


def int8_caveat(target: Target) -> str | None:
    """What a user of INT8 on this target should know, or None."""
    if target.compiler != "tensorrt-rtx":
        return None
    if target.sm in SMS_WITHOUT_INT8_CONVOLUTIONS:
        return (
            f"TensorRT-RTX compiles no INT8 convolutions for SM{target.sm}: pointwise ones are built as INT8 "
            "matrix products, whose speed has not been measured; compare with --fp16 on that GPU."
        )
    return (
        "INT8 convolutions are not in TensorRT-RTX's support matrix though its builder takes them: "
        "compare with --fp16 on that GPU before relying on their speed."
    )
