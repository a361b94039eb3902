"""ONNX -> a TensorRT-RTX plan, ahead of time, with or without a GPU."""

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploykit.engine.audit import Audit
from deploykit.engine.layer_log import LAYER_LINE, audit_log
from deploykit.engine.manifest import BatchRange
from deploykit.engine.targets import Target
from deploykit.errors import DeployError
from deploykit.extras import require
from deploykit.model_file import to_bytes

if TYPE_CHECKING:
    from onnx import ModelProto

Progress = Callable[[str], None]
"""Called with the name of each phase of the build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A compiled engine, and what its builder's log says is in it."""

    data: bytes
    audit: Audit
    compiler_version: str
    build_seconds: float


def compile_plan(
    model: "ModelProto", *, target: Target, batch: BatchRange, progress: Progress = lambda phase: None
) -> Plan:
    """Compiles a model whose graph spells out its precision.

    Args:
        model: one input of dynamic batch; its nodes are named.
        target: compute capability to compile for; without one the portable engine.

    Raises:
        DeployError: TensorRT-RTX is missing or refuses the model.
        KeyboardInterrupt: the build was stopped, as soon as the builder took notice.
    """
    trt = require("tensorrt_rtx")
    monitor = _monitor(trt, progress)
    # On a thread of its own: TensorRT calls back into Python all along, and an interrupt that met such a
    # call on the main thread would vanish there.
    with ThreadPoolExecutor(max_workers=1) as pool:
        compiling = pool.submit(_compile, trt, model, target, batch, monitor)
        try:
            while not compiling.done():
                wait([compiling], timeout=0.1)
        except KeyboardInterrupt:
            monitor.cancelled = True
            wait([compiling])
            raise
    return compiling.result()


def _compile(trt: Any, model: "ModelProto", target: Target, batch: BatchRange, monitor: Any) -> Plan:
    # Now, and not while TensorRT calls back into Python: freeing a builder that a stopped build left behind
    # takes a lock which TensorRT holds then, and would wait for it forever.
    gc.collect()
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(to_bytes(model)):
        raise DeployError(
            f"TensorRT-RTX can't read the model: {parser.get_error(0).desc()}.", fix="export the model again"
        )
    config = _config(trt, builder, network, target, batch)
    config.progress_monitor = monitor
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        refusal = _refusal(log, target)
        _clear_after_failure(trt, builder)
        raise refusal
    return Plan(
        data=bytes(plan),
        audit=audit_log(log.layers, model),
        compiler_version=trt.__version__,
        build_seconds=time.perf_counter() - start,
    )


def _clear_after_failure(trt: Any, builder: Any) -> None:
    """Builds something small, which gets the failed build's compute capability instead of the next engine.

    Seen in version 1.7: the build after a failed one for SM75 chose SM75's kernels whatever it was for.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    layer = network.add_activation(network.add_input("x", trt.float32, (1,)), trt.ActivationType.RELU)
    network.mark_output(layer.get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())


def _config(trt: Any, builder: Any, network: Any, target: Target, batch: BatchRange) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if target.sm is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target.sm}"), 0)
    profile = builder.create_optimization_profile()
    images = network.get_input(0)
    shape = tuple(images.shape)[1:]
    profile.set_shape(images.name, (batch.min, *shape), (batch.opt, *shape), (batch.max, *shape))
    config.add_optimization_profile(profile)
    return config


def _refusal(log: Any, target: Target) -> DeployError:
    if any("FP32 GEMM is not supported" in message for message in log.errors):
        return DeployError(
            f"TensorRT-RTX has no FP32 matrix products for {target.title}.",
            fix="build it as FP16: leave out --fp32",
        )
    reason = log.errors[-1].splitlines()[0] if log.errors else "it gave no reason"
    return DeployError(
        f"TensorRT-RTX can't build for {target.title}: {reason}.", fix="try --fp16, or another --gpu"
    )


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
