"""Runs a plan of TensorRT or TensorRT-RTX on the GPU, with device memory and streams from cuda-core.

Written against the documented API and not yet run: no GPU has been at hand. tests/test_gpu.py,
which `make test-gpu` runs where there is one, is what will show it.
"""

import math
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import Manifest
from deploykit.errors import DeployError
from deploykit.extras import require
from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.plan import deserialize

MOST_GRAPHS = 8
"""CUDA graphs, and the buffers they run on, that a thread keeps: one for each shape it met last."""
_FLOAT = np.dtype(np.float32)

Array = npt.NDArray[np.float32]


class GpuRunner:
    """Safe from many threads: each has a context, a stream and buffers of its own."""

    def __init__(self, path: Path, manifest: Manifest, *, cuda_graphs: bool = True) -> None:
        self._core = require("cuda.core", extra="gpu")
        try:
            self._device = self._core.Device(0)
            self._device.set_current()
        except Exception as error:  # cuda-core's exceptions share no public base class
            raise DeployError(
                f"The GPU can't be used: {str(error).splitlines()[0]}",
                fix="install or update NVIDIA's driver; nvidia-smi shows which is there",
            ) from error
        self._runtime, self._engine = deserialize(path, manifest)
        self._manifest, self._cuda_graphs = manifest, cuda_graphs
        self._title = manifest.target.compiler_title
        self._own = threading.local()
        self._lanes: list[_Lane] = []
        self._lock = threading.Lock()

    def run(self, images: npt.NDArray[Any], profile: int) -> Array:
        """Copies in, runs, copies out, and waits."""
        return self._lane().run(images, profile)

    def run_on_device(
        self, images: DeviceArray, answer: DeviceArray, profile: int, stream: int | None
    ) -> None:
        """Runs from memory of the GPU to memory of the GPU.

        Args:
            stream: a handle to enqueue on, without waiting; None for a stream of its own, and waiting.
        """
        self._lane().run_on_device(images, answer, profile, stream)

    def close(self) -> None:
        with self._lock:
            for lane in self._lanes:
                lane.close()
            self._lanes.clear()
        del self._engine, self._runtime

    def _lane(self) -> "_Lane":
        self._device.set_current()  # each thread has to
        lane: _Lane | None = getattr(self._own, "lane", None)
        if lane is None:
            context = self._engine.create_execution_context()
            if context is None:
                needed = self._engine.device_memory_size_v2 / 2**20
                raise DeployError(
                    f"{self._title} has no room for another context, of {needed:.0f} MiB, on the GPU.",
                    fix="call it from fewer threads, or build it with a smaller --batch",
                )
            lane = _Lane(
                self._core,
                self._device,
                context,
                self._manifest,
                title=self._title,
                cuda_graphs=self._cuda_graphs,
            )
            self._own.lane = lane
            with self._lock:
                self._lanes.append(lane)
        return lane


class _Lane:
    """What one thread runs on."""

    def __init__(
        self, core: Any, device: Any, context: Any, manifest: Manifest, *, title: str, cuda_graphs: bool
    ) -> None:
        self._core, self._device, self._context, self._manifest = core, device, context, manifest
        self._title, self._cuda_graphs = title, cuda_graphs
        self._stream = device.create_stream()
        self._slots: OrderedDict[tuple[int, ...], _Slot] = OrderedDict()
        self._profile = 0

    def run(self, images: npt.NDArray[Any], profile: int) -> Array:
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
            # 1 and 2 stand for the default streams there, which order themselves by the device.
            if images.stream in (1, 2):
                self._device.sync()
            else:
                given.wait(self._core.Stream.from_handle(images.stream))
        self._bind(images.shape, profile, images.pointer, answer.pointer, given)
        self._execute(images.shape, int(given.handle))
        if stream is None:
            given.sync()

    def close(self) -> None:
        self._stream.sync()
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()
        del self._context
        self._stream.close()

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
        self._slots[shape] = slot
        if self._cuda_graphs:
            slot.graph = self._captured(slot, shape, profile)
        return slot

    def _captured(self, slot: "_Slot", shape: tuple[int, ...], profile: int) -> Any:
        """A CUDA graph of the execution, after one that is not captured, as TensorRT asks for."""
        self._bind(shape, profile, int(slot.input.handle), int(slot.output.handle), self._stream)
        self._execute(shape, int(self._stream.handle))
        self._stream.sync()
        recording = self._stream.create_graph_builder()
        try:
            recording.begin_building("thread_local")
            self._execute(shape, int(self._stream.handle))
            return recording.end_building().complete()
        finally:
            recording.close()

    def _bind(self, shape: tuple[int, ...], profile: int, source: int, answer: int, stream: Any) -> None:
        if self._profile != profile:
            self._context.set_optimization_profile_async(profile, int(stream.handle))
            self._profile = profile
        self._context.set_input_shape(self._manifest.input.name, shape)
        self._context.set_tensor_address(self._manifest.input.name, source)
        self._context.set_tensor_address(self._manifest.output.name, answer)

    def _execute(self, shape: tuple[int, ...], stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise DeployError(f"{self._title} could not run images of {shape}.", fix="try a smaller --batch")


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
        try:
            self.host_input = pinned.allocate(input_bytes)
            self.host_output = pinned.allocate(output_bytes)
            self.input = device.memory_resource.allocate(input_bytes, stream=stream)
            self.output = device.memory_resource.allocate(output_bytes, stream=stream)
        except Exception as error:  # cuda-core's exceptions share no public base class
            raise DeployError(
                f"There is no room on the GPU for images of {shape}: "
                f"{(input_bytes + output_bytes) / 2**20:.0f} MiB were wanted ({error}).",
                fix="give smaller batches",
            ) from error
        self.staged_input = _as_array(self.host_input, shape, dtype)
        self.staged_output = _as_array(self.host_output, answers, _FLOAT)

    def close(self) -> None:
        if self.graph is not None:
            self.graph.close()
        for buffer in (self.input, self.output, self.host_input, self.host_output):
            buffer.close()


def _as_array(buffer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.from_dlpack(buffer).view(dtype).reshape(shape)
