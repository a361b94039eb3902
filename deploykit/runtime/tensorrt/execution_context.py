"""What one call at a time runs on: a context, a stream, and for each shape memory and a CUDA graph."""

import logging
import math
from collections import OrderedDict
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import EngineManifest
from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.outputs import Outputs, unwrap_single_output
from deploykit.runtime.tensorrt.plan import is_capturable
from deploykit.util.errors import DeployError

_log = logging.getLogger(__name__)

MAX_CUDA_GRAPHS = 8
"""CUDA graphs, and the buffers they run on, kept with each context: one for each shape it met last."""
_FLOAT = np.dtype(np.float32)


class ExecutionContext:
    """Runs one call at a time.

    Attributes:
        stream: its own.
        has_executed: whether calls were launched kernel by kernel, for want of a graph.
    """

    def __init__(
        self, core: Any, device: Any, context: Any, manifest: EngineManifest, *, title: str, cuda_graphs: bool
    ) -> None:
        self._core, self._device, self._context, self._manifest = core, device, context, manifest
        self._title, self._cuda_graphs = title, cuda_graphs
        self.stream = device.create_stream()
        self.has_executed = False
        self._slots: OrderedDict[tuple[tuple[int, ...], int], ShapeBuffers] = OrderedDict()
        self._profile = 0
        self._last: Any = None  # the event after what was given to a stream of the caller's

    def run(self, images: npt.NDArray[Any], profile: int) -> Outputs:
        slot = self.load(images, profile)
        self.bind(slot)
        self.launch(slot)
        for output, host_output in zip(slot.outputs, slot.host_outputs, strict=True):
            output.copy_to(host_output, stream=self.stream)
        self.stream.sync()
        names = (each.name for each in self._manifest.outputs)
        staged = zip(names, slot.staged_outputs, strict=True)
        return unwrap_single_output({name: each.copy() for name, each in staged})

    def load(self, images: npt.NDArray[Any], profile: int) -> "ShapeBuffers":
        """Begins to bring images over; their slot has them when the stream is done."""
        self._wait_for_last(self.stream)
        slot = self._slot(images.shape, images.dtype, profile)
        slot.staged_input[...] = images
        slot.input.copy_from(slot.host_input, stream=self.stream)
        return slot

    def bind(self, slot: "ShapeBuffers") -> None:
        """Points the context to the slot's memory; a graph knows it."""
        if slot.graph is None:
            answers = [int(each.handle) for each in slot.outputs]
            self._bind(slot.shape, slot.profile, int(slot.input.handle), answers, self.stream)

    def launch(self, slot: "ShapeBuffers") -> None:
        """Enqueues what computes the answers, of a slot that is bound."""
        if slot.graph is not None:
            slot.graph.launch(self.stream)
            return
        self.has_executed = True
        self._execute(slot.shape, int(self.stream.handle))

    def run_on_device(
        self, images: DeviceArray, answers: tuple[DeviceArray, ...], profile: int, stream: int | None
    ) -> None:
        given = self.stream if stream is None else self._core.Stream.from_handle(stream)
        if images.stream is not None:
            given.wait(self._core.Stream.from_handle(images.stream))
        self._wait_for_last(given)
        self._bind(images.shape, profile, images.pointer, [each.pointer for each in answers], given)
        self._execute(images.shape, int(given.handle))
        if stream is None:
            given.sync()
        else:
            self._last = given.record(self._last)

    def attach(self, profiler: Any) -> None:
        """Has TensorRT time layers, of shapes that come from now on: a graph has the events for it inside."""
        self._context.profiler = profiler
        self._context.enqueue_emits_profile = False

    def report(self) -> bool:
        """Tells the profiler of the last call, which has to be done; whether there is anything to tell."""
        return bool(self._context.report_to_profiler())

    def close(self) -> None:
        self.stream.sync()
        if self._last is not None:
            self._last.sync()
            self._last.close()
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()
        del self._context
        self.stream.close()

    def _wait_for_last(self, stream: Any) -> None:
        """A context's memory is one, whatever streams it is run on."""
        if self._last is not None:
            stream.wait(self._last)

    def _slot(self, shape: tuple[int, ...], dtype: np.dtype[Any], profile: int) -> "ShapeBuffers":
        """Buffers of exactly this shape, and their graph; the least recently used ones make room."""
        key = shape, profile
        if key in self._slots:
            self._slots.move_to_end(key)
            return self._slots[key]
        while len(self._slots) >= MAX_CUDA_GRAPHS:
            self.stream.sync()
            self._slots.popitem(last=False)[1].close()
        answers = tuple((shape[0], *each.shape) for each in self._manifest.outputs)
        slot = ShapeBuffers(
            self._core, self._device, self.stream, images=(shape, dtype), answers=answers, profile=profile
        )
        if self._cuda_graphs:
            try:
                slot.graph = self._captured(slot)
            except DeployError:
                slot.close()
                raise
        self._slots[key] = slot
        return slot

    def _captured(self, slot: "ShapeBuffers") -> Any:
        """A CUDA graph of the execution, after one that is not captured, as TensorRT asks for.

        None where it can't be captured: it is executed then.
        """
        stream, shape = int(self.stream.handle), slot.shape
        self.bind(slot)
        self._execute(shape, stream)
        self.stream.sync()
        if not is_capturable(self._context, stream):
            _log.warning("note: %s runs images of %s without a CUDA graph.", self._title, shape)
            return None
        recording = self.stream.create_graph_builder()
        try:
            recording.begin_building("thread_local")
            self._execute(shape, stream)
            return recording.end_building().complete()
        except Exception as error:  # cuda-core's exceptions share no public base class
            _log.warning("note: %s runs images of %s without a CUDA graph: %s", self._title, shape, error)
            return None
        finally:
            with suppress(Exception):  # it tells again of a capture that something else spoiled
                recording.close()

    def _bind(
        self, shape: tuple[int, ...], profile: int, source: int, answers: list[int], stream: Any
    ) -> None:
        context, taken, given = self._context, self._manifest.input.name, self._manifest.outputs
        if self._profile != profile:
            if not context.set_optimization_profile_async(profile, int(stream.handle)):
                raise self._refusal(shape)
            self._profile = profile
        if not (
            context.set_input_shape(taken, shape)
            and context.set_tensor_address(taken, source)
            and all(
                context.set_tensor_address(each.name, answer)
                for each, answer in zip(given, answers, strict=True)
            )
        ):
            raise self._refusal(shape)

    def _execute(self, shape: tuple[int, ...], stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise self._refusal(shape)

    def _refusal(self, shape: tuple[int, ...]) -> DeployError:
        return DeployError(
            f"{self._title} could not run images of {shape}.", code="run-failed", fix="try a smaller --batch"
        )


class ShapeBuffers:
    """Pinned host memory and device memory for images of one shape, and the graph that runs on them.

    Attributes:
        graph: None where there is none.
        profile: of the engine's, that they run by.
    """

    def __init__(
        self,
        core: Any,
        device: Any,
        stream: Any,
        *,
        images: tuple[tuple[int, ...], np.dtype[Any]],
        answers: tuple[tuple[int, ...], ...],
        profile: int,
    ) -> None:
        shape, dtype = images
        pinned = core.LegacyPinnedMemoryResource()
        self.shape, self.profile = shape, profile
        self.graph: Any = None
        input_bytes = dtype.itemsize * math.prod(shape)
        outputs_bytes = [_FLOAT.itemsize * math.prod(each) for each in answers]
        with ExitStack() as buffers:
            try:
                self.host_input = buffers.enter_context(pinned.allocate(input_bytes))
                self.host_outputs = [buffers.enter_context(pinned.allocate(size)) for size in outputs_bytes]
                device_memory = device.memory_resource
                self.input = buffers.enter_context(device_memory.allocate(input_bytes, stream=stream))
                self.outputs = [
                    buffers.enter_context(device_memory.allocate(size, stream=stream))
                    for size in outputs_bytes
                ]
            except Exception as error:  # cuda-core's exceptions share no public base class
                raise DeployError(
                    f"There is no room on the GPU for images of {shape}: "
                    f"{(input_bytes + sum(outputs_bytes)) / 2**20:.0f} MiB were wanted ({error}).",
                    code="run-out-of-memory",
                    fix="give smaller batches",
                ) from error
            self._buffers = buffers.pop_all()
        self.staged_input = _as_array(self.host_input, shape, dtype)
        self.staged_outputs = [
            _as_array(host, each, _FLOAT) for host, each in zip(self.host_outputs, answers, strict=True)
        ]

    def close(self) -> None:
        if self.graph is not None:
            self.graph.close()
        self._buffers.close()


def _as_array(buffer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.from_dlpack(buffer).view(dtype).reshape(shape)
