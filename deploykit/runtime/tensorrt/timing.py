"""A call again and again, to be timed: what the GPU takes of it, and what the host."""

from collections import deque
from typing import Any

import numpy.typing as npt

from deploykit.runtime.tensorrt.execution_context import ExecutionContext

EVENT_RESOLUTION_MS = 0.0005
"""Of CUDA's events: "around 0.5 microseconds" (cuEventElapsedTime, CUDA driver API)."""


class CallTimer:
    """Its images are on the GPU, and its answers stay there. For one thread: the one that made it."""

    def __init__(
        self, core: Any, device: Any, lane: ExecutionContext, images: npt.NDArray[Any], profile: int
    ) -> None:
        self._lane, self._slot = lane, lane.load(images, profile)
        options = core.EventOptions(timing_enabled=True)
        # Those around the call that runs, and those for the next.
        self._around = deque([[device.create_event(options) for _ in range(2)] for _ in range(2)])
        self._runs = False
        self.wait()

    def enqueue(self) -> None:
        """All that the host does for a call, which is done after `wait`."""
        self._lane.bind(self._slot)
        self._lane.launch(self._slot)

    def wait(self) -> None:
        self._lane.stream.sync()
        self._runs = False

    def device_ms(self) -> float:
        """What the GPU takes for a call, by events around it.

        Each is enqueued while the one before it runs, so that the GPU need not wait for the host between the
        first event and the first kernel. Where it is faster than the host enqueues, its waiting is counted.

        References:
            trtexec's "GPU compute time", TensorRT's samples/common/sampleInference.cpp, which does the same.
        """
        if not self._runs:
            self.enqueue()  # for the first one to be enqueued meanwhile; binds for all
            self._record()
            self._runs = True
        start, end = self._around[0]
        self._around.rotate()
        self._record()
        end.sync()
        return max(float(end - start), EVENT_RESOLUTION_MS)

    def close(self) -> None:
        self.wait()
        for event in (*self._around[0], *self._around[1]):
            event.close()

    def _record(self) -> None:
        start, end = self._around[0]
        self._lane.stream.record(start)
        self._lane.launch(self._slot)
        self._lane.stream.record(end)
