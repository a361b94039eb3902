"""A call whose layers TensorRT's profiler times."""

from typing import Any

import numpy.typing as npt

from deploykit.runtime.tensorrt.execution_context import ExecutionContext
from deploykit.util.errors import DeployError


class LayerProfiler:
    """Its images are on the GPU, and its answers stay there. For one thread: the one that made it."""

    def __init__(self, trt: Any, lane: ExecutionContext, images: npt.NDArray[Any], profile: int) -> None:
        self._profiler = _profiler(trt)  # which has to outlive the context
        lane.attach(self._profiler)
        self._lane, self._slot = lane, lane.load(images, profile)

    def layers_ms(self) -> dict[str, float]:
        """What each layer takes of one call, by its name, in the order they ran.

        Raises:
            DeployError: TensorRT tells none.

        References:
            IExecutionContext.report_to_profiler, of launches of CUDA graphs too.
        """
        found: dict[str, float] = {}
        self._profiler.layers_ms = found
        self._lane.bind(self._slot)
        self._lane.launch(self._slot)
        self._lane.stream.sync()
        if not self._lane.report() or not found:
            graph = self._slot.graph is not None
            raise DeployError(
                f"TensorRT tells no times of layers{' that were launched as a CUDA graph' if graph else ''}.",
                code="layer-times-unavailable",
                fix="give --no-cuda-graph" if graph else "build the engine again, and time it as a whole",
            )
        return found


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the base class is known at run time only
        """Adds up what layers of one name took."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.layers_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.layers_ms[layer_name] = self.layers_ms.get(layer_name, 0.0) + ms

    return Profiler()
