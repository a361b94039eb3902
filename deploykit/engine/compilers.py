"""What compiles engines, and what sets TensorRT's two flavours apart."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from deploykit.quantize.placement import Policy
from deploykit.util.errors import DeployError
from deploykit.util.install_hint import install_hint

Compiler = Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerFacts:
    """What is known of a compiler.

    Attributes:
        title: as messages have it.
        module: what it imports as.
        install: what to do where it is missing.
        ahead_of_time: it compiles for GPUs that are not here; the others for the one of this machine.
        int8_policy: what it makes fast.
        option_names: of BuildOptions, that it has.
        timing_cache: what it times of kernels is worth keeping for the next build.
        portable_versions: what it writes runs with other versions of it.
        specializes_shapes: it compiles kernels for a shape when it runs it first, which has to be allowed for
            where executions are captured in CUDA graphs.
        suppresses: it has kernels for ONNX's NonMaxSuppression.
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
    suppresses: bool = True


_LARGEST_WORKSPACE_MB = 2**20
_FLAGS = {
    "optimization_level": "--optimization-level",
    "workspace_mb": "--workspace",
    "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
    "strip": "--strip",
}
_KNOBS = frozenset({"optimization_level", "workspace_mb"})

COMPILERS: dict[Compiler, CompilerFacts] = {
    "tensorrt": CompilerFacts(
        title="TensorRT",
        module="tensorrt",
        install="install NVIDIA's tensorrt (version 10 or 11) from its own package index",
        ahead_of_time=False,
        int8_policy="bandwidth",
        option_names=_KNOBS | {"version_compatible", "hardware_compatible", "strip"},
        timing_cache=True,
    ),
    # Its engines run with the release that built them alone; its timing cache has no effect and asks for a
    # GPU (release notes of 1.1); stripping a plan asks for one too, seen with 1.7. So was that it reads
    # NonMaxSuppression, and then finds no kernel for it.
    "tensorrt-rtx": CompilerFacts(
        title="TensorRT-RTX",
        module="tensorrt_rtx",
        install=f"{install_hint('cpu')}; on a machine with a GPU, {install_hint('gpu')}",
        ahead_of_time=True,
        int8_policy="dense",
        option_names=_KNOBS,
        specializes_shapes=True,
        suppresses=False,
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
    """What a user may ask of a compiler beyond precision and batch.

    Attributes:
        optimization_level: 0 builds fastest, 5 searches longest; None for the compiler's own.
        workspace_mb: device memory that kernels may work in at most, MiB; None for all there is.
        version_compatible: later versions of the compiler's runtime run the engine too.
        hardware_compatible: other GPUs run it too: of SM80 and later, or of the same compute capability.
        strip: leave the weights out of the plan, to be refitted.
    """

    optimization_level: int | None = None
    workspace_mb: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip: bool = False

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise DeployError(
                f"There is no optimization level {self.optimization_level}.",
                code="invalid-optimization-level",
                fix="give one from 0 to 5",
            )
        if self.workspace_mb is not None and not 1 <= self.workspace_mb <= _LARGEST_WORKSPACE_MB:
            raise DeployError(
                f"A workspace of {self.workspace_mb} MiB is none: there are 1 to {_LARGEST_WORKSPACE_MB}.",
                code="invalid-workspace",
                fix="give --workspace 1024, say",
            )

    def require_for(self, compiler: Compiler) -> None:
        """Fails where a compiler lacks an option that is asked for.

        Raises:
            DeployError: it does.
        """
        plain = BuildOptions()
        for name in self.__dataclass_fields__:
            if getattr(self, name) != getattr(plain, name) and name not in COMPILERS[compiler].option_names:
                have = [each.title for each in COMPILERS.values() if name in each.option_names]
                raise DeployError(
                    f"{COMPILERS[compiler].title} engines can't be built with {_FLAGS[name]}.",
                    code="option-not-applicable",
                    fix=f"leave it out, or build with {' or '.join(have)} where the GPU is",
                )


def require_installed(compiler: Compiler) -> None:
    """Fails now rather than after a calibration, where a compiler is missing.

    Raises:
        DeployError: it is.
    """
    if not is_installed(compiler):
        facts = COMPILERS[compiler]
        raise DeployError(
            f"{facts.title} is needed for this and is not installed.",
            code="dependency-missing",
            fix=facts.install,
        )


def is_installed(compiler: Compiler) -> bool:
    """Whether its module can be found; nothing is imported."""
    return importlib.util.find_spec(COMPILERS[compiler].module) is not None
