"""Time repeated calls: on the GPU by CUDA events, on the host by the time to enqueue."""

from collections import deque
from typing import Any

import numpy.typing as npt

from deploykit.runtime.tensorrt.execution_context import ExecutionContext

EVENT_RESOLUTION_MS = 0.0005
"""Resolution of CUDA events: "around 0.5 microseconds" (cuEventElapsedTime, CUDA driver API)."""


class CallTimer:
    """One batch on the GPU that is run again and again and timed; its outputs stay on the GPU.

    Only the thread that created it may use it.
    """

    def __init__(
        self, core: Any, device: Any, context: ExecutionContext, images: npt.NDArray[Any], profile: int
    ) -> None:
        self._context, self._buffers = context, context.load(images, profile)
        options = core.EventOptions(timing_enabled=True)
        # The start and end events of the call in flight, and those of the next.
        self._events = deque([[device.create_event(options) for _ in range(2)] for _ in range(2)])
        self._is_running = False
        self.wait()

    def enqueue(self) -> None:
        """Do all that the host does for a call, without waiting for the GPU."""
        self._context.bind(self._buffers)
        self._context.launch(self._buffers)

    def wait(self) -> None:
        """Wait until the GPU has finished what was enqueued."""
        self._context.stream.sync()
        self._is_running = False

    def device_ms(self) -> float:
        """Run one call and return its time on the GPU, ms, from a CUDA event before it to one after it.

        Each call is enqueued while the one before it runs, so that the GPU does not wait for the host between
        the first event and the first kernel. If the GPU is faster than the host enqueues, the time includes
        the GPU's waiting.

        References:
            "GPU compute time" of trtexec does the same: TensorRT's samples/common/sampleInference.cpp.
        """
        if not self._is_running:
            self.enqueue()  # keeps the GPU busy while the first timed call is enqueued; binds for all
            self._record()
            self._is_running = True
        start, end = self._events[0]
        self._events.rotate()
        self._record()
        end.sync()
        return max(float(end - start), EVENT_RESOLUTION_MS)

    def close(self) -> None:
        self.wait()
        for event in (*self._events[0], *self._events[1]):
            event.close()

    def _record(self) -> None:
        start, end = self._events[0]
        self._context.stream.record(start)
        self._context.launch(self._buffers)
        self._context.stream.record(end)
