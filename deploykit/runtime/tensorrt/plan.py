"""Deserializes plans, and says why where that fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploykit.engine.compilers import COMPILERS
from deploykit.engine.manifest import EngineManifest
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

# TensorRT-RTX's EngineInvalidityDiagnostics, 1.7, in words.
_REASONS = {
    "VERSION_MISMATCH": "another version of TensorRT-RTX built it",
    "UNSUPPORTED_CC": "it is for other GPUs",
    "OLD_CUDA_DRIVER": "the GPU's driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory",
    "MALFORMED_ENGINE": "it is damaged",
    "CUDA_ERROR": "CUDA fails",
}


def deserialize_plan(path: Path, manifest: EngineManifest) -> tuple[Any, Any]:
    """TensorRT's runtime, which must outlive the engine, and the engine.

    Raises:
        DeployError: it can't be loaded; says why.
    """
    facts = COMPILERS[manifest.target.compiler]
    trt = require(facts.module, install=facts.install)
    log = _log(trt)
    data = path.read_bytes()
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # its constructor gives back nothing
        raise _refusal(path, manifest, trt, log.last) from error
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise _refusal(path, manifest, trt, _invalidity(trt, runtime, data) or log.last)
    return runtime, engine


def create_execution_context(engine: Any, manifest: EngineManifest) -> Any:
    """An execution context; None where the GPU has no memory for one.

    TensorRT-RTX compiles kernels for a shape when it is first met: at once, so that what is captured in a
    CUDA graph then is not what it would run meanwhile.

    References:
        "Working with RTX CUDA Graphs", docs.nvidia.com/deeplearning/tensorrt-rtx.
    """
    facts = COMPILERS[manifest.target.compiler]
    if not facts.specializes_shapes:
        return engine.create_execution_context()
    trt = require(facts.module)
    runtime_config = engine.create_runtime_config()
    strategies = trt.DynamicShapesKernelSpecializationStrategy
    runtime_config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(runtime_config)


def is_capturable(context: Any, stream: int) -> bool:
    """Whether an execution may be captured in a CUDA graph; TensorRT-RTX has some that may not."""
    can: Callable[[int], bool] | None = getattr(context, "is_stream_capturable", None)
    return can is None or can(stream)


def _refusal(path: Path, manifest: EngineManifest, trt: Any, reason: str | None) -> DeployError:
    facts = COMPILERS[manifest.target.compiler]
    why = f": {reason}" if reason else ""
    return DeployError(
        f"{facts.title} {trt.__version__} can't load {path}, built by {manifest.compiler_version}{why}.",
        code="engine-load-failed",
        fix="check the driver with nvidia-smi; deploykit build-engine --gpu local builds the engine again",
    )


def _invalidity(trt: Any, runtime: Any, data: bytes) -> str | None:
    """TensorRT-RTX's own diagnosis, from the plan's header; TensorRT has none."""
    if not hasattr(runtime, "get_engine_validity"):
        return None
    _, diagnosis = runtime.get_engine_validity(data[: runtime.engine_header_size])
    found = [
        words
        for name, words in _REASONS.items()
        if int(diagnosis) & int(getattr(trt.EngineInvalidityDiagnostics, name))
    ]
    return ", ".join(found) or None


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        """Keeps the first line of the last error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last: str | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.last = message.splitlines()[0].rstrip(".")

    return Log()
