"""The compilers, and what distinguishes them."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from deploykit.quantize.placement import Policy
from deploykit.util.errors import DeployError
from deploykit.util.install_hint import install_hint

Compiler = Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerFacts:
    """Properties of a compiler.

    Attributes:
        title: Its name in messages.
        module: The Python module to import.
        install: How to install it.
        ahead_of_time: Whether it compiles for GPUs that are not in this machine.
        int8_policy: The placement that is fastest with it.
        option_names: The fields of BuildOptions that it supports.
        timing_cache: Whether saving its kernel timings speeds up the next build.
        portable_versions: Whether other versions of it run its engines.
        specializes_shapes: Whether it compiles kernels when it first runs a shape. The build has to allow
            for that if executions are captured in CUDA graphs.
        has_nms: Whether it has kernels for ONNX's NonMaxSuppression.
    """

    title: str
    module: str
    install: str
    ahead_of_time: bool
    int8_policy: Policy
    option_names: frozenset[str] = frozenset()
    timing_cache: bool = False
    portable_versions: bool = False
    specializes_shapes: bool = False
    has_nms: bool = True


_MAX_WORKSPACE_MB = 2**20
_FLAGS = {
    "optimization_level": "--optimization-level",
    "workspace_mb": "--workspace",
    "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
    "strip": "--strip",
}
_COMMON_OPTIONS = frozenset({"optimization_level", "workspace_mb"})

COMPILERS: dict[Compiler, CompilerFacts] = {
    "tensorrt": CompilerFacts(
        title="TensorRT",
        module="tensorrt",
        install="install NVIDIA's tensorrt (version 10 or 11) from NVIDIA's package index",
        ahead_of_time=False,
        int8_policy="bandwidth",
        option_names=_COMMON_OPTIONS | {"version_compatible", "hardware_compatible", "strip"},
        timing_cache=True,
    ),
    # Its engines run only with the release that built them. Its timing cache has no effect and requires a
    # GPU (release notes of 1.1). Observed with 1.7: stripping a plan requires a GPU as well, and the parser
    # accepts NonMaxSuppression but the builder has no kernel for it.
    "tensorrt-rtx": CompilerFacts(
        title="TensorRT-RTX",
        module="tensorrt_rtx",
        install=f"{install_hint('cpu')}; on a machine with a GPU, {install_hint('gpu')}",
        ahead_of_time=True,
        int8_policy="dense",
        option_names=_COMMON_OPTIONS,
        specializes_shapes=True,
        has_nms=False,
    ),
    "onnxruntime": CompilerFacts(
        title="ONNX Runtime",
        module="onnxruntime",
        install=install_hint("cpu"),
        ahead_of_time=True,
        int8_policy="pointwise",
        portable_versions=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Compiler options besides precision and shapes.

    Attributes:
        optimization_level: 0 (fastest build) to 5 (longest search); None for the compiler's default.
        workspace_mb: Limit on the device memory that kernels may use as workspace, MiB; None for no limit.
        version_compatible: Later versions of the compiler's runtime run the engine as well.
        hardware_compatible: Other GPUs run the engine as well: those of SM80 and later, or of the same
            compute capability.
        strip: Leave the weights out of the plan, to be refitted later.
    """

    optimization_level: int | None = None
    workspace_mb: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip: bool = False

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise DeployError(
                f"Optimization level {self.optimization_level} is outside the range from 0 to 5.",
                code="invalid-optimization-level",
                fix="give, for example, --optimization-level 3",
            )
        if self.workspace_mb is not None and not 1 <= self.workspace_mb <= _MAX_WORKSPACE_MB:
            raise DeployError(
                f"A workspace of {self.workspace_mb} MiB is outside the range from 1 to {_MAX_WORKSPACE_MB}.",
                code="invalid-workspace",
                fix="give, for example, --workspace 1024",
            )

    def require_supported_by(self, compiler: Compiler) -> None:
        """Check that a compiler supports every option that differs from its default.

        Raises:
            DeployError: It does not.
        """
        defaults = BuildOptions()
        for name in self.__dataclass_fields__:
            is_set = getattr(self, name) != getattr(defaults, name)
            if is_set and name not in COMPILERS[compiler].option_names:
                supporting = [each.title for each in COMPILERS.values() if name in each.option_names]
                raise DeployError(
                    f"{COMPILERS[compiler].title} does not support {_FLAGS[name]}.",
                    code="option-not-applicable",
                    fix=f"remove it, or build with {' or '.join(supporting)} on the machine with the GPU",
                )


def require_installed(compiler: Compiler) -> None:
    """Check that a compiler is installed, before anything slow such as calibration.

    Raises:
        DeployError: It is not.
    """
    if not is_installed(compiler):
        facts = COMPILERS[compiler]
        raise DeployError(
            f"{facts.title} is required and is not installed.",
            code="dependency-missing",
            fix=facts.install,
        )


def is_installed(compiler: Compiler) -> bool:
    """Return whether the compiler's module can be found, without importing it."""
    return importlib.util.find_spec(COMPILERS[compiler].module) is not None
