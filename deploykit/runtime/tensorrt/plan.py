"""Deserialize TensorRT plans and explain failures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploykit.engine.compilers import COMPILERS
from deploykit.engine.manifest import EngineManifest
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

# What EngineInvalidityDiagnostics of TensorRT-RTX 1.7 mean.
_REASONS = {
    "VERSION_MISMATCH": "it was built by another version of TensorRT-RTX",
    "UNSUPPORTED_CC": "it was built for other GPUs",
    "OLD_CUDA_DRIVER": "the GPU's driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory",
    "MALFORMED_ENGINE": "it is damaged",
    "CUDA_ERROR": "CUDA reported an error",
}


def deserialize_plan(path: str | Path, manifest: EngineManifest) -> tuple[Any, Any]:
    """Deserialize a plan.

    Returns:
        TensorRT's runtime, which must outlive the engine, and the engine.

    Raises:
        DeployError: The plan cannot be loaded; the message says why.
    """
    path, facts = Path(path), COMPILERS[manifest.target.compiler]
    trt = require(facts.module, install=facts.install)
    logger = _make_logger(trt)
    data = path.read_bytes()
    try:
        runtime = trt.Runtime(logger)
    except TypeError as error:  # the constructor returned no object
        raise _load_error(path, manifest, trt, logger.last_error) from error
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise _load_error(path, manifest, trt, _diagnose(trt, runtime, data) or logger.last_error)
    return runtime, engine


def create_execution_context(engine: Any, manifest: EngineManifest) -> Any:
    """Create an execution context, or return None if the GPU has too little memory for one.

    TensorRT-RTX specializes kernels for each new input shape. This asks it to do so at once: a CUDA graph
    would otherwise capture the generic kernels that it uses in the meantime.

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


def is_capturable(trt_context: Any, stream: int) -> bool:
    """Return whether a CUDA graph can capture the execution; some of TensorRT-RTX cannot be captured."""
    can: Callable[[int], bool] | None = getattr(trt_context, "is_stream_capturable", None)
    return can is None or can(stream)


def _load_error(path: Path, manifest: EngineManifest, trt: Any, reason: str | None) -> DeployError:
    facts = COMPILERS[manifest.target.compiler]
    why = f": {reason}" if reason else ""
    return DeployError(
        f"{facts.title} {trt.__version__} cannot load {path}, which was built by version "
        f"{manifest.compiler_version}{why}.",
        code="engine-load-failed",
        fix="check the driver with nvidia-smi, or rebuild it here: deploykit build-engine --gpu local",
    )


def _diagnose(trt: Any, runtime: Any, data: bytes) -> str | None:
    """Return TensorRT-RTX's diagnosis of the plan's header; TensorRT has none."""
    if not hasattr(runtime, "get_engine_validity"):
        return None
    _, diagnosis = runtime.get_engine_validity(data[: runtime.engine_header_size])
    found = [
        words
        for name, words in _REASONS.items()
        if int(diagnosis) & int(getattr(trt.EngineInvalidityDiagnostics, name))
    ]
    return ", ".join(found) or None


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        """A logger that keeps the first line of the last error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error: str | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.last_error = message.splitlines()[0].rstrip(".")

    return Logger()
