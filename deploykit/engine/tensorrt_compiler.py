"""ONNX -> a plan, by TensorRT on the GPU it will run on, or by TensorRT-RTX with or without one."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
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

if TYPE_CHECKING:
    from onnx import ModelProto

Progress = Callable[[str], None]
"""Called with the name of each phase of the build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is to be built."""

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
    progress: Progress = lambda phase: None,
) -> CompiledEngine:
    """Compiles a model whose graph spells out its precision.

    Args:
        model: one input of dynamic batch and of one side; its nodes are named.
        batches: an optimization profile each.
        side: None for the model's own alone.
        target: its compiler, and the compute capability to compile for; without one the portable engine.

    Raises:
        DeployError: the compiler is missing, finds no GPU though it needs one, or refuses the model.
        KeyboardInterrupt: the build was stopped, as soon as the builder took notice.
    """
    facts = COMPILERS[target.compiler]
    trt = require(facts.module, install=facts.install)
    order = _Order(target=target, batches=tuple(batches), side=side, options=options)
    monitor = _monitor(trt, progress)
    # On a thread of its own: TensorRT calls back into Python all along, and an interrupt that met such a
    # call on the main thread would vanish there.
    with ThreadPoolExecutor(max_workers=1) as pool:
        compiling = pool.submit(_compile, trt, model, order, monitor)
        try:
            while not compiling.done():
                wait([compiling], timeout=0.1)
        except KeyboardInterrupt:
            monitor.cancelled = True
            wait([compiling])
            raise
    return compiling.result()


def _compile(trt: Any, model: "ModelProto", order: _Order, monitor: Any) -> CompiledEngine:
    target = order.target
    # Now, and not while TensorRT calls back into Python: freeing a builder that a stopped build left behind
    # takes a lock which TensorRT holds then, and would wait for it forever.
    gc.collect()
    log = _logger(trt)
    builder = _builder(trt, log, target)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(to_bytes(with_dynamic_side(model) if order.side else model)):
        raise DeployError(
            f"{target.compiler_title} can't read the model: {parser.get_error(0).desc()}.",
            code="compiler-parse-failed",
            fix="export the model again",
        )
    config = _config(trt, builder, network, order)
    config.progress_monitor = monitor
    timings = TimingCache(trt, config, target)
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        refusal = _refusal(log, order)
        if COMPILERS[target.compiler].ahead_of_time:
            _clear_after_failure(trt, builder)
        raise refusal
    timings.save()
    data = bytes(plan)
    return CompiledEngine(
        data=data,
        audit=audit_builder_log(log.layers, model)
        if COMPILERS[target.compiler].ahead_of_time
        else _inspected(trt, log, data, model),
        compiler_version=trt.__version__,
        build_seconds=time.perf_counter() - start,
        timing_cache_sha256=timings.sha256,
    )


def _builder(trt: Any, log: Any, target: Target) -> Any:
    try:
        return trt.Builder(log)
    except TypeError as error:  # its constructor gives back nothing
        reason = _reason(log) or "no GPU or driver that it can use shows"
        raise DeployError(
            f"{target.compiler_title} {trt.__version__} does not start: {reason}.",
            code="compiler-start-failed",
            fix="check nvidia-smi, or build with --compiler tensorrt-rtx, which needs no GPU",
        ) from error


def _inspected(trt: Any, log: Any, plan: bytes, model: "ModelProto") -> Audit:
    """The audit of a plan that this machine can load, as TensorRT's inspector gives it."""
    runtime = trt.Runtime(log)  # which has to outlive the engine
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise DeployError(
            f"The plan just built can't be loaded: {_reason(log) or 'no reason given'}.",
            code="engine-load-failed",
            fix="check nvidia-smi",
        )
    inspector = engine.create_engine_inspector()
    return audit_engine_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON), model)


def _clear_after_failure(trt: Any, builder: Any) -> None:
    """Builds something small, which gets the failed build's compute capability instead of the next engine.

    Seen in version 1.7: the build after a failed one for SM75 chose SM75's kernels whatever it was for.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    layer = network.add_activation(network.add_input("x", trt.float32, (1,)), trt.ActivationType.RELU)
    network.mark_output(layer.get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())


def _config(trt: Any, builder: Any, network: Any, order: _Order) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_target(trt, config, order)
    _set_options(trt, config, order.options)
    for profile in _profiles(builder, network.get_input(0), order):
        if config.add_optimization_profile(profile) < 0:
            raise DeployError(
                f"{order.target.compiler_title} refuses these sizes of images.",
                code="dynamic-side-unsupported",
                fix="give smaller ones",
            )
    return config


def _set_target(trt: Any, config: Any, order: _Order) -> None:
    target, facts = order.target, COMPILERS[order.target.compiler]
    if target.sm is not None and facts.ahead_of_time:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target.sm}"), 0)
    if facts.specializes_shapes:  # or no execution could be captured in a CUDA graph
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if order.options.hardware_compatible:
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


def _profiles(builder: Any, images: Any, order: _Order) -> Iterator[Any]:
    """An optimization profile for each batch range, of the smallest, the usual and the largest sizes."""
    shape, side = tuple(images.shape)[1:], order.side
    small, usual, large = (
        tuple(px if size == -1 else size for size in shape)
        for px in ((side.min, side.opt, side.max) if side else (-1, -1, -1))
    )
    for batch in order.batches:
        profile = builder.create_optimization_profile()
        profile.set_shape(images.name, (batch.min, *small), (batch.opt, *usual), (batch.max, *large))
        yield profile


def _refusal(log: Any, order: _Order) -> DeployError:
    target, options = order.target, order.options
    if any("FP32 GEMM is not supported" in message for message in log.errors):
        return DeployError(
            f"{target.compiler_title} has no FP32 matrix products for {target.title}.",
            code="precision-unsupported",
            fix="build it as FP16: leave out --fp32",
        )
    if any("OutOfMemory" in message for message in log.errors):
        place = "" if options.workspace_mb is None else f" in a workspace of {options.workspace_mb} MiB"
        return DeployError(
            f"{target.compiler_title} finds no memory to build in for {target.title}{place}.",
            code="compiler-out-of-memory",
            fix="give smaller images or batches"
            if options.workspace_mb is None
            else "give a larger --workspace, or leave it out",
        )
    return DeployError(
        f"{target.compiler_title} can't build for {target.title}: {_reason(log) or 'it gave no reason'}.",
        code="compiler-build-failed",
        fix="try another precision or another --gpu",
    )


def _reason(log: Any) -> str | None:
    return log.errors[-1].splitlines()[0].rstrip(".") if log.errors else None


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        """Keeps what the builder says: errors to report, compiled layers to audit."""

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
        """Passes phases on; a step that returns False stops the build."""

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
