"""Runs a plan of TensorRT or TensorRT-RTX on the GPU, with device memory and streams from cuda-core.

Not yet run on a GPU: none has been at hand. tests/test_gpu_runner.py runs it on cuda-core itself, over a
stub of the driver, with an engine of its own; tests/test_gpu.py, by `make test-gpu`, is for where one is.
"""

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import Manifest
from deploykit.errors import DeployError
from deploykit.extras import require
from deploykit.local_gpu import ORDINAL
from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.plan import deserialize, is_capturable, new_context

_log = logging.getLogger(__name__)

MOST_GRAPHS = 8
"""CUDA graphs, and the buffers they run on, kept with each context: one for each shape it met last."""
_FLOAT = np.dtype(np.float32)

Array = npt.NDArray[np.float32]


class GpuRunner:
    """Safe from many threads: calls at the same time have contexts, streams and buffers of their own."""

    def __init__(self, path: Path, manifest: Manifest, *, cuda_graphs: bool = True) -> None:
        self._core = require("cuda.core", extra="gpu")
        try:
            self._device = self._core.Device(ORDINAL)
            self._device.set_current()
        except Exception as error:  # cuda-core's exceptions share no public base class
            raise DeployError(
                f"The GPU can't be used: {str(error).splitlines()[0]}",
                fix="install or update NVIDIA's driver; nvidia-smi shows which is there",
            ) from error
        self._runtime, self._engine = deserialize(path, manifest)
        self._manifest, self._cuda_graphs = manifest, cuda_graphs
        self._title = manifest.target.compiler_title
        self._idle: list[_Lane] = []
        self._lock = threading.Lock()

    def run(self, images: npt.NDArray[Any], profile: int) -> Array:
        """Copies in, runs, copies out, and waits."""
        with self._lane() as lane:
            return lane.run(images, profile)

    def run_on_device(
        self, images: DeviceArray, answer: DeviceArray, profile: int, stream: int | None
    ) -> None:
        """Runs from memory of the GPU to memory of the GPU.

        Args:
            stream: a handle to enqueue on, without waiting; None for a stream of its own, and waiting.
        """
        with self._lane() as lane:
            lane.run_on_device(images, answer, profile, stream)

    def close(self) -> None:
        """Calls that still run are the caller's to wait for."""
        self._device.set_current()  # each thread has to
        while self._idle:
            self._idle.pop().close()
        del self._engine, self._runtime

    @contextmanager
    def _lane(self) -> "Iterator[_Lane]":
        """What a call has to itself: what the last one gave back, whose graphs are there, or a new one."""
        self._device.set_current()
        with self._lock:
            lane = self._idle.pop() if self._idle else None
        lane = lane or self._new_lane()
        try:
            yield lane
        finally:
            with self._lock:
                self._idle.append(lane)

    def _new_lane(self) -> "_Lane":
        context = new_context(self._engine, self._manifest)
        if context is None:
            needed = self._engine.device_memory_size_v2 / 2**20
            raise DeployError(
                f"{self._title} has no room for another context, of {needed:.0f} MiB, on the GPU.",
                fix="call it from fewer threads, or build it with a smaller --batch",
            )
        return _Lane(
            self._core,
            self._device,
            context,
            self._manifest,
            title=self._title,
            cuda_graphs=self._cuda_graphs,
        )


class _Lane:
    """What one call at a time runs on."""

    def __init__(
        self, core: Any, device: Any, context: Any, manifest: Manifest, *, title: str, cuda_graphs: bool
    ) -> None:
        self._core, self._device, self._context, self._manifest = core, device, context, manifest
        self._title, self._cuda_graphs = title, cuda_graphs
        self._stream = device.create_stream()
        self._slots: OrderedDict[tuple[int, ...], _Slot] = OrderedDict()
        self._profile = 0
        self._last: Any = None  # the event after what was given to a stream of the caller's

    def run(self, images: npt.NDArray[Any], profile: int) -> Array:
        self._wait_for_last(self._stream)
        slot = self._slot(images.shape, images.dtype, profile)
        slot.staged_input[...] = images
        slot.input.copy_from(slot.host_input, stream=self._stream)
        if slot.graph is not None:
            slot.graph.launch(self._stream)
        else:
            self._bind(images.shape, profile, int(slot.input.handle), int(slot.output.handle), self._stream)
            self._execute(images.shape, int(self._stream.handle))
        slot.output.copy_to(slot.host_output, stream=self._stream)
        self._stream.sync()
        return slot.staged_output.copy()

    def run_on_device(
        self, images: DeviceArray, answer: DeviceArray, profile: int, stream: int | None
    ) -> None:
        given = self._stream if stream is None else self._core.Stream.from_handle(stream)
        if images.stream is not None:
            given.wait(self._core.Stream.from_handle(images.stream))
        self._wait_for_last(given)
        self._bind(images.shape, profile, images.pointer, answer.pointer, given)
        self._execute(images.shape, int(given.handle))
        if stream is None:
            given.sync()
        else:
            self._last = given.record(self._last)

    def close(self) -> None:
        self._stream.sync()
        if self._last is not None:
            self._last.sync()
            self._last.close()
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()
        del self._context
        self._stream.close()

    def _wait_for_last(self, stream: Any) -> None:
        """A context's memory is one, whatever streams it is run on."""
        if self._last is not None:
            stream.wait(self._last)

    def _slot(self, shape: tuple[int, ...], dtype: np.dtype[Any], profile: int) -> "_Slot":
        """Buffers of exactly this shape, and their graph; the least recently used ones make room."""
        if shape in self._slots:
            self._slots.move_to_end(shape)
            return self._slots[shape]
        while len(self._slots) >= MOST_GRAPHS:
            self._stream.sync()
            self._slots.popitem(last=False)[1].close()
        answers = (shape[0], *self._manifest.output.shape)
        slot = _Slot(self._core, self._device, self._stream, images=(shape, dtype), answers=answers)
        if self._cuda_graphs:
            try:
                slot.graph = self._captured(slot, shape, profile)
            except DeployError:
                slot.close()
                raise
        self._slots[shape] = slot
        return slot

    def _captured(self, slot: "_Slot", shape: tuple[int, ...], profile: int) -> Any:
        """A CUDA graph of the execution, after one that is not captured, as TensorRT asks for.

        None where it can't be captured: it is executed then.
        """
        stream = int(self._stream.handle)
        self._bind(shape, profile, int(slot.input.handle), int(slot.output.handle), self._stream)
        self._execute(shape, stream)
        self._stream.sync()
        if not is_capturable(self._context, stream):
            _log.warning("note: %s runs images of %s without a CUDA graph.", self._title, shape)
            return None
        recording = self._stream.create_graph_builder()
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

    def _bind(self, shape: tuple[int, ...], profile: int, source: int, answer: int, stream: Any) -> None:
        context, taken, given = self._context, self._manifest.input.name, self._manifest.output.name
        if self._profile != profile:
            if not context.set_optimization_profile_async(profile, int(stream.handle)):
                raise self._refusal(shape)
            self._profile = profile
        if not (
            context.set_input_shape(taken, shape)
            and context.set_tensor_address(taken, source)
            and context.set_tensor_address(given, answer)
        ):
            raise self._refusal(shape)

    def _execute(self, shape: tuple[int, ...], stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise self._refusal(shape)

    def _refusal(self, shape: tuple[int, ...]) -> DeployError:
        return DeployError(f"{self._title} could not run images of {shape}.", fix="try a smaller --batch")


class _Slot:
    """Pinned host memory and device memory for images of one shape, and the graph that runs on them."""

    def __init__(
        self,
        core: Any,
        device: Any,
        stream: Any,
        *,
        images: tuple[tuple[int, ...], np.dtype[Any]],
        answers: tuple[int, ...],
    ) -> None:
        shape, dtype = images
        pinned = core.LegacyPinnedMemoryResource()
        self.graph: Any = None
        input_bytes, output_bytes = dtype.itemsize * math.prod(shape), _FLOAT.itemsize * math.prod(answers)
        with ExitStack() as buffers:
            try:
                self.host_input = buffers.enter_context(pinned.allocate(input_bytes))
                self.host_output = buffers.enter_context(pinned.allocate(output_bytes))
                device_memory = device.memory_resource
                self.input = buffers.enter_context(device_memory.allocate(input_bytes, stream=stream))
                self.output = buffers.enter_context(device_memory.allocate(output_bytes, stream=stream))
            except Exception as error:  # cuda-core's exceptions share no public base class
                raise DeployError(
                    f"There is no room on the GPU for images of {shape}: "
                    f"{(input_bytes + output_bytes) / 2**20:.0f} MiB were wanted ({error}).",
                    fix="give smaller batches",
                ) from error
            self._buffers = buffers.pop_all()
        self.staged_input = _as_array(self.host_input, shape, dtype)
        self.staged_output = _as_array(self.host_output, answers, _FLOAT)

    def close(self) -> None:
        if self.graph is not None:
            self.graph.close()
        self._buffers.close()


def _as_array(buffer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.from_dlpack(buffer).view(dtype).reshape(shape)
