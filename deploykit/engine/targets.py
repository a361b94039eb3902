"""What an engine is compiled for, and by which compiler."""

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
AMPERE_SM = 80  # hardware-compatible TensorRT engines run on GPUs from this compute capability on

# The members of tensorrt_rtx.ComputeCapability, 1.7. SM70, SM90 and SM100 are not among them.
AHEAD_OF_TIME_SMS = (75, 80, 86, 89, 120, 121)
# Observed in the builder's log, 1.7: Q/DQ convolutions are dequantized and computed in FP16.
SMS_WITHOUT_INT8_CONVOLUTIONS = frozenset({75})
# Without a compute capability the engine covers these, and all after the last.
PORTABLE_SMS = (80, 86, 89, 120)
PORTABLE_TITLE = "GPUs of SM80, 86, 89, 120 and later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an engine is compiled for.

    Attributes:
        name: Name of the GPU, `CPU`, or `portable`.
        compiler: What compiles for it.
        sm: Compute capability to compile for, 75 for 7.5; None for the CPU and the portable engine.
        hardware_compatible: Whether a TensorRT engine runs on more than one GPU model.
        note: A sentence for the user, or None.
    """

    name: str
    compiler: Compiler
    sm: int | None = None
    hardware_compatible: bool = False
    note: str | None = None

    @property
    def label(self) -> str:
        """The target in file names: `sm75`, `portable`, `cpu`."""
        return f"sm{self.sm}" if self.sm is not None else self.name.lower()

    @property
    def compiler_title(self) -> str:
        """The compiler in messages: `TensorRT-RTX`."""
        return COMPILERS[self.compiler].title

    @property
    def title(self) -> str:
        """The target in messages: `T4 (SM75)`."""
        if self.sm is not None:
            return f"{self.name} (SM{self.sm})"
        return PORTABLE_TITLE if self.name == "portable" else "the CPU"

    @property
    def on_cpu(self) -> bool:
        """Whether the engine runs on the CPU."""
        return self.compiler == "onnxruntime" and self.sm is None

    def runs_on(self, gpu: LocalGpu) -> bool:
        """Return whether a GPU runs the engine."""
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
    """Return the target that --gpu and --compiler denote.

    Args:
        gpu: A GPU or its name, `cpu`, `portable` or `local`; None for the local GPU if there is one, else
            the portable engine.
        compiler: None for the most suitable one; the target's note explains the choice.

    Raises:
        DeployError: The GPU is unknown, `local` finds none, or no installed compiler can build for it.
    """
    if compiler not in (None, *COMPILERS):
        raise DeployError(
            f"Unknown compiler {compiler}.",
            code="unknown-compiler",
            fix=f"use one of {', '.join(COMPILERS)}",
        )
    if isinstance(gpu, Gpu):
        return _for_model(gpu, gpu.name, compiler)
    on_cpu = gpu is not None and gpu.lower() == CPU
    if on_cpu or (gpu is None and compiler == "onnxruntime"):
        if compiler not in (None, "onnxruntime"):
            raise DeployError(
                f"{COMPILERS[compiler].title} compiles for NVIDIA GPUs, not for the CPU.",
                code="compiler-target-mismatch",
                fix="remove --compiler, or give a GPU with --gpu",
            )
        return Target(name="CPU", compiler="onnxruntime")
    if gpu is not None and gpu.lower() == PORTABLE:
        if compiler not in (None, "tensorrt-rtx"):
            raise DeployError(
                f"{COMPILERS[compiler].title} can't build portable engines.",
                code="compiler-target-mismatch",
                fix="remove --compiler",
            )
        return Target(
            name=PORTABLE,
            compiler="tensorrt-rtx",
            note=f"Compiling with TensorRT-RTX, for {PORTABLE_TITLE}; a T4 (SM75) needs --gpu T4.",
        )
    if gpu is None or gpu.lower() == LOCAL:
        return _local(required=gpu is not None, compiler=compiler)
    return _for_model(find_gpu(gpu), gpu, compiler)


def resolve_precision(target: Target, requested: Precision | None) -> Precision:
    """Return the precision to build: the requested one, else FP16, or FP32 on the CPU.

    Args:
        requested: What the user asked for; None for the default.

    Raises:
        DeployError: The precision is unknown, or ONNX Runtime would compute in another one. It has no FP16
            arithmetic on CPUs, and no INT8 convolutions on GPUs (microsoft/onnxruntime#12229).
    """
    if requested not in (None, *get_args(Precision)):
        raise DeployError(
            f"Unknown precision {requested}.",
            code="unknown-precision",
            fix=f"use one of {', '.join(get_args(Precision))}",
        )
    if target.on_cpu and requested == "fp16":
        raise DeployError(
            "ONNX Runtime has no FP16 arithmetic on CPUs; it would compute in FP32.",
            code="precision-unsupported",
            fix="build in FP32 or INT8",
        )
    if target.compiler == "onnxruntime" and not target.on_cpu and requested == "int8":
        raise DeployError(
            "ONNX Runtime has no INT8 convolutions on GPUs; it would compute them in floating point.",
            code="precision-unsupported",
            fix="build in FP16 or FP32, or use another --compiler",
        )
    return requested or ("fp32" if target.on_cpu else "fp16")


def _local(*, required: bool, compiler: Compiler | None) -> Target:
    gpu = local_gpu()
    if gpu is not None:
        return _for_gpu_here(gpu, compiler)
    if required or compiler == "tensorrt":
        raise DeployError(
            "No NVIDIA GPU was found on this machine.",
            code="gpu-not-found",
            fix="remove --compiler, or build on the machine with the GPU"
            if compiler == "tensorrt"
            else "name the GPU to build for, for example --gpu T4, or use --gpu cpu",
        )
    return Target(
        name="portable",
        compiler="tensorrt-rtx",
        note=f"No GPU found and none named: building the portable engine with TensorRT-RTX, for "
        f"{PORTABLE_TITLE}; a T4 (SM75) needs --gpu T4.",
    )


def _for_model(gpu: Gpu, name: str, compiler: Compiler | None) -> Target:
    """Return the local GPU if the name matches it, else a target for ahead-of-time compilation."""
    here = local_gpu()
    if here is not None and gpu.sm == here.sm and _words(name) <= _words(here.name):
        return _for_gpu_here(here, compiler)
    if compiler in ("tensorrt", "onnxruntime"):
        raise DeployError(
            f"{COMPILERS[compiler].title} compiles only for the GPU of this machine, and {gpu.name} is not "
            "here.",
            code="compiler-target-mismatch",
            fix="remove --compiler, or build on a machine with that GPU",
        )
    if gpu.sm is None:
        raise DeployError(
            f"The compute capability of {gpu.name} is unknown, so no engine can be compiled for it.",
            code="gpu-facts-missing",
            fix="add it to the GPU's description, for example compute_capability = '8.9'",
        )
    return _ahead_of_time(gpu.name, gpu.sm)


def _for_gpu_here(gpu: LocalGpu, compiler: Compiler | None) -> Target:
    """Prefer TensorRT if it is installed and documented for the GPU; ONNX Runtime comes last."""
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
    """Split a name, so that `A100 SXM4` matches `NVIDIA A100-SXM4-40GB`."""
    return set(re.split(r"[\s-]+", name.lower()))


def _ahead_of_time(name: str, sm: int, *, why: str = "which needs no GPU to compile") -> Target:
    if sm not in AHEAD_OF_TIME_SMS:
        raise DeployError(
            f"TensorRT-RTX can't compile for {name} (SM{sm}), only for "
            f"{', '.join(f'SM{each}' for each in AHEAD_OF_TIME_SMS)}.",
            code="compiler-target-mismatch",
            fix="copy the ONNX model to the machine with that GPU and build there with NVIDIA's tensorrt or "
            "with --compiler onnxruntime, or use --gpu cpu",
        )
    note = _documentation_note(name, sm, why=why)
    return Target(name=name, compiler="tensorrt-rtx", sm=sm, note=note)


def _documentation_note(name: str, sm: int, *, why: str) -> str:
    if "RTX" in name:
        return f"Compiling for {name} with TensorRT-RTX, NVIDIA's compiler for RTX GPUs."
    return (
        f"Compiling for {name} with TensorRT-RTX, {why}. NVIDIA documents TensorRT-RTX for RTX GPUs, with "
        f"which {name} shares its compute capability (SM{sm}), and tensorrt for data-centre GPUs."
    )


def resolve_int8_policy(target: Target, requested: Policy | None = None) -> Policy:
    """Return the INT8 policy: the requested one, else the fastest for the target's compiler.

    Raises:
        DeployError: The compiler lacks INT8 kernels for the requested policy.
    """
    if not lacks_int8_convolutions(target):
        return requested or COMPILERS[target.compiler].int8_policy
    if requested not in (None, "pointwise"):
        raise DeployError(
            f"{target.compiler_title} has only INT8 matrix products for {target.title}, to which pointwise "
            f"convolutions are lowered; policy {requested} includes other convolutions.",
            code="precision-unsupported",
            fix="remove --int8-policy, or build for another GPU",
        )
    return "pointwise"


def require_int8_kernels(target: Target, placement: Placement) -> None:
    """Check that the compiler has INT8 kernels for every layer that the user added to the policy.

    Raises:
        DeployError: It lacks one.
    """
    others = [node.output for node in placement.products if not node.is_matrix_product]
    if others and lacks_int8_convolutions(target):
        raise DeployError(
            f"{target.compiler_title} has only INT8 matrix products for {target.title}, and {others[0]} is "
            "not one.",
            code="precision-unsupported",
            fix="remove it from --int8-include, or build for another GPU",
        )


def lacks_int8_convolutions(target: Target) -> bool:
    """Return whether the target has INT8 kernels for matrix products but not for convolutions."""
    return target.on_cpu or (target.compiler == "tensorrt-rtx" and target.sm in SMS_WITHOUT_INT8_CONVOLUTIONS)


def int8_caveat(target: Target) -> str | None:
    """Return what a user of INT8 should know about this target, or None."""
    if target.compiler != "tensorrt-rtx":
        return None
    if target.sm in SMS_WITHOUT_INT8_CONVOLUTIONS:
        return (
            f"TensorRT-RTX has no INT8 convolutions for SM{target.sm}: pointwise ones become INT8 matrix "
            "products, whose speed has not been measured. Compare with --fp16 on that GPU."
        )
    return (
        "INT8 convolutions are not in TensorRT-RTX's support matrix, although its builder accepts them. "
        "Compare with --fp16 on that GPU before relying on their speed."
    )
