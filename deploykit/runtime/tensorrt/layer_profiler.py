"""Time the layers of an engine with TensorRT's profiler."""

from typing import Any

import numpy.typing as npt

from deploykit.runtime.tensorrt.execution_context import ExecutionContext
from deploykit.util.errors import DeployError


class LayerProfiler:
    """One batch on the GPU that is run again and again while TensorRT times its layers.

    The outputs stay on the GPU. Only the thread that created it may use it.
    """

    def __init__(self, trt: Any, context: ExecutionContext, images: npt.NDArray[Any], profile: int) -> None:
        self._profiler = _make_profiler(trt)  # must outlive the context
        context.attach(self._profiler)
        self._context, self._buffers = context, context.load(images, profile)

    def layers_ms(self) -> dict[str, float]:
        """Run one call and return the time of each layer, ms, by layer name, in execution order.

        Raises:
            DeployError: TensorRT reported no times.

        References:
            IExecutionContext.report_to_profiler; it reports launches of CUDA graphs too.
        """
        layers_ms: dict[str, float] = {}
        self._profiler.layers_ms = layers_ms
        self._context.bind(self._buffers)
        self._context.launch(self._buffers)
        self._context.stream.sync()
        if not self._context.report() or not layers_ms:
            graph = self._buffers.graph is not None
            raise DeployError(
                "TensorRT reported no layer times"
                f"{' for a call that was launched as a CUDA graph' if graph else ''}.",
                code="layer-times-unavailable",
                fix="use --no-cuda-graph"
                if graph
                else "time the whole engine: deploykit bench ENGINE, without --layers",
            )
        return layers_ms


def _make_profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the base class is known at run time only
        """A profiler that sums the times of layers with the same name."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.layers_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.layers_ms[layer_name] = self.layers_ms.get(layer_name, 0.0) + ms

    return Profiler()
