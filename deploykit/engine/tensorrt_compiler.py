"""ONNX -> a plan: by TensorRT on the GPU that will run it, or by TensorRT-RTX with or without a GPU."""

import gc
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploykit.engine.audit.audit import Audit
from deploykit.engine.audit.layer_log import LAYER_LINE, audit_builder_log, audit_engine_inspector
from deploykit.engine.compiled_engine import CompiledEngine
from deploykit.engine.compilers import COMPILERS, BuildOptions
from deploykit.engine.lowering.dynamic_side import with_dynamic_side
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import AMPERE_SM, Target
from deploykit.engine.timing_cache import TimingCache
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.progress import Progress, no_progress

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True, kw_only=True)
class _BuildRequest:
    """What to build."""

    target: Target
    batches: tuple[BatchRange, ...]
    side: SideRange | None
    options: BuildOptions


def compile_plan(
    model: "ModelProto",
    *,
    target: Target,
    batches: Sequence[BatchRange],
    side: SideRange | None = None,
    options: BuildOptions = BuildOptions(),  # noqa: B008  # frozen
    progress: Progress = no_progress,
) -> CompiledEngine:
    """Compile a model whose graph makes its precision explicit.

    Args:
        model: With one input of dynamic batch and fixed side, and with named nodes.
        target: The compiler, and the compute capability to compile for; without one the portable engine.
        batches: One optimization profile each.
        side: Image sides that the engine accepts; None for only the model's own.
        progress: Receives each phase of the build. Phases do not announce how long they take.

    Raises:
        DeployError: The compiler is missing, needs a GPU and finds none, or refuses the model.
        KeyboardInterrupt: The build was interrupted. It stops as soon as the builder notices.
    """
    facts = COMPILERS[target.compiler]
    trt = require(facts.module, install=facts.install)
    request = _BuildRequest(target=target, batches=tuple(batches), side=side, options=options)
    monitor = _monitor(trt, progress)
    # On a separate thread: TensorRT constantly calls back into Python, and an interrupt during such a call on
    # the main thread would get lost.
    with ThreadPoolExecutor(max_workers=1) as pool:
        compiling = pool.submit(_compile, trt, model, request, monitor)
        try:
            while not compiling.done():
                wait([compiling], timeout=0.1)
        except KeyboardInterrupt:
            monitor.cancelled = True
            wait([compiling])
            raise
    return compiling.result()


def _compile(trt: Any, model: "ModelProto", request: _BuildRequest, monitor: Any) -> CompiledEngine:
    target = request.target
    # Collect garbage now. Freeing the builder of an interrupted build takes a lock. TensorRT holds that lock
    # while it calls back into Python, so a collection at that time would wait for it forever.
    gc.collect()
    log = _logger(trt)
    builder = _builder(trt, log, target)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(to_bytes(with_dynamic_side(model) if request.side else model)):
        raise DeployError(
            f"{target.compiler_title} can't parse the model: {parser.get_error(0).desc()}.",
            code="compiler-parse-failed",
            fix="export the model again",
        )
    config = _config(trt, builder, network, request)
    config.progress_monitor = monitor
    timing_cache = TimingCache(trt, config, target)
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        refusal = _refusal(log, request)
        if COMPILERS[target.compiler].ahead_of_time:
            _clear_after_failure(trt, builder)
        raise refusal
    timing_cache.save()
    data = bytes(plan)
    return CompiledEngine(
        data=data,
        audit=audit_builder_log(log.layers, model)
        if COMPILERS[target.compiler].ahead_of_time
        else _inspected(trt, log, data, model),
        compiler_version=trt.__version__,
        build_seconds=time.perf_counter() - start,
        timing_cache_sha256=timing_cache.sha256,
    )


def _builder(trt: Any, log: Any, target: Target) -> Any:
    try:
        return trt.Builder(log)
    except TypeError as error:  # the constructor returned nothing
        reason = _last_error(log) or "it finds no usable GPU or driver"
        raise DeployError(
            f"{target.compiler_title} {trt.__version__} failed to start: {reason}.",
            code="compiler-start-failed",
            fix="check nvidia-smi, or build with --compiler tensorrt-rtx, which needs no GPU",
        ) from error


def _inspected(trt: Any, log: Any, plan: bytes, model: "ModelProto") -> Audit:
    """Load a plan on this machine and return the audit from TensorRT's engine inspector."""
    runtime = trt.Runtime(log)  # has to outlive the engine
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise DeployError(
            f"The plan just built can't be loaded: {_last_error(log) or 'no reason given'}.",
            code="engine-load-failed",
            fix="check nvidia-smi",
        )
    inspector = engine.create_engine_inspector()
    return audit_engine_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON), model)


def _clear_after_failure(trt: Any, builder: Any) -> None:
    """Build a tiny network that absorbs the compute capability left over from a failed build.

    Observed in version 1.7: after a failed build for SM75 the next build used SM75's kernels, whatever its
    target.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    layer = network.add_activation(network.add_input("x", trt.float32, (1,)), trt.ActivationType.RELU)
    network.mark_output(layer.get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())


def _config(trt: Any, builder: Any, network: Any, request: _BuildRequest) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_target(trt, config, request)
    _set_options(trt, config, request.options)
    for profile in _profiles(builder, network.get_input(0), request):
        if config.add_optimization_profile(profile) < 0:
            raise DeployError(
                f"{request.target.compiler_title} refuses these batch sizes and image sides.",
                code="dynamic-side-unsupported",
                fix="give smaller --batch or --side ranges",
            )
    return config


def _set_target(trt: Any, config: Any, request: _BuildRequest) -> None:
    target, facts = request.target, COMPILERS[request.target.compiler]
    if target.sm is not None and facts.ahead_of_time:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target.sm}"), 0)
    if facts.specializes_shapes:  # otherwise executions could not be captured in CUDA graphs
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if request.options.hardware_compatible:
        levels = trt.HardwareCompatibilityLevel
        later = target.sm is not None and target.sm >= AMPERE_SM
        config.hardware_compatibility_level = levels.AMPERE_PLUS if later else levels.SAME_COMPUTE_CAPABILITY


def _set_options(trt: Any, config: Any, options: BuildOptions) -> None:
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * 2**20)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.strip:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)


def _profiles(builder: Any, images: Any, request: _BuildRequest) -> Iterator[Any]:
    """Yield an optimization profile for each batch range, with its minimum, optimum and maximum shapes."""
    shape, side = tuple(images.shape)[1:], request.side
    small, usual, large = (
        tuple(px if size == -1 else size for size in shape)
        for px in ((side.min, side.opt, side.max) if side else (-1, -1, -1))
    )
    for batch in request.batches:
        profile = builder.create_optimization_profile()
        profile.set_shape(images.name, (batch.min, *small), (batch.opt, *usual), (batch.max, *large))
        yield profile


def _refusal(log: Any, request: _BuildRequest) -> DeployError:
    target, options = request.target, request.options
    if any("FP32 GEMM is not supported" in message for message in log.errors):
        return DeployError(
            f"{target.compiler_title} has no FP32 matrix products for {target.title}.",
            code="precision-unsupported",
            fix="build in FP16: remove --fp32",
        )
    if any("OutOfMemory" in message for message in log.errors):
        limit = "" if options.workspace_mb is None else f" in a workspace of {options.workspace_mb} MiB"
        return DeployError(
            f"{target.compiler_title} ran out of memory while building for {target.title}{limit}.",
            code="compiler-out-of-memory",
            fix="reduce the batch size or the image side"
            if options.workspace_mb is None
            else "give a larger --workspace, or remove the option",
        )
    return DeployError(
        f"{target.compiler_title} can't build for {target.title}: {_last_error(log) or 'no reason given'}.",
        code="compiler-build-failed",
        fix="try another precision or another --gpu",
    )


def _last_error(log: Any) -> str | None:
    return log.errors[-1].splitlines()[0].rstrip(".") if log.errors else None


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        """Keeps the builder's messages: errors to report, and compiled layers to audit."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.layers: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message)
            else:
                self.layers += [line for line in message.splitlines() if LAYER_LINE.match(line)]

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class is known at run time only
        """Reports phases. A step that returns False stops the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            progress(phase)

        def phase_finish(self, phase: str) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            return not self.cancelled

    return Monitor()
