"""An execution context with its stream, and the buffers and CUDA graph of each input shape.

One call runs on one execution context at a time.
"""

import ctypes
import logging
import math
from collections import OrderedDict
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import EngineManifest
from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.outputs import EngineOutputs, unwrap_single_output
from deploykit.runtime.tensorrt.plan import is_capturable
from deploykit.util.errors import DeployError

_log = logging.getLogger(__name__)

MAX_CUDA_GRAPHS = 8
"""CUDA graphs, each with its buffers, that one execution context keeps: the most recently used shapes."""
_FLOAT = np.dtype(np.float32)


class ExecutionContext:
    """A TensorRT execution context that runs one call at a time.

    Attributes:
        stream: The CUDA stream of this context.
        launched_without_graph: Whether any call was launched kernel by kernel because it had no CUDA graph.
    """

    def __init__(
        self,
        core: Any,
        device: Any,
        trt_context: Any,
        manifest: EngineManifest,
        *,
        title: str,
        cuda_graphs: bool,
    ) -> None:
        self._core, self._device, self._trt_context, self._manifest = core, device, trt_context, manifest
        self._title, self._cuda_graphs = title, cuda_graphs
        self.stream = device.create_stream()
        self.launched_without_graph = False
        self._buffers_by_shape: OrderedDict[tuple[tuple[int, ...], int], ShapeBuffers] = OrderedDict()
        self._profile = 0
        self._last_event: Any = None  # recorded after the last call on a caller's stream

    def run(self, images: npt.NDArray[Any], profile: int) -> EngineOutputs:
        """Run images that are in host memory: copy in, execute, copy out, and wait."""
        buffers = self.load(images, profile)
        self.bind(buffers)
        self.launch(buffers)
        for output, host_output in zip(buffers.outputs, buffers.host_outputs, strict=True):
            output.copy_to(host_output, stream=self.stream)
        self.stream.sync()
        names = (each.name for each in self._manifest.outputs)
        staged = zip(names, buffers.staged_outputs, strict=True)
        return unwrap_single_output({name: each.copy() for name, each in staged})

    def load(self, images: npt.NDArray[Any], profile: int) -> "ShapeBuffers":
        """Enqueue the copy of images to the GPU; their buffers are ready when the stream is done."""
        self._wait_for_last_call(self.stream)
        buffers = self._buffers_for(images.shape, images.dtype, profile)
        buffers.staged_input[...] = images
        buffers.input.copy_from(buffers.host_input, stream=self.stream)
        return buffers

    def bind(self, buffers: "ShapeBuffers") -> None:
        """Set the tensor addresses of these buffers; a CUDA graph has captured them already."""
        if buffers.graph is None:
            outputs = [int(each.handle) for each in buffers.outputs]
            self._bind(buffers.shape, buffers.profile, int(buffers.input.handle), outputs, self.stream)

    def launch(self, buffers: "ShapeBuffers") -> None:
        """Enqueue the computation on buffers that are bound."""
        if buffers.graph is not None:
            buffers.graph.launch(self.stream)
            return
        self.launched_without_graph = True
        self._execute(buffers.shape, int(self.stream.handle))

    def run_on_device(
        self, images: DeviceArray, outputs: tuple[DeviceArray, ...], profile: int, stream: int | None
    ) -> None:
        """Run images that are in device memory; with a stream of the caller, without waiting."""
        stream_in_use = self.stream if stream is None else self._core.Stream.from_handle(stream)
        if images.stream is not None:
            stream_in_use.wait(self._core.Stream.from_handle(images.stream))
        self._wait_for_last_call(stream_in_use)
        self._bind(images.shape, profile, images.pointer, [each.pointer for each in outputs], stream_in_use)
        self._execute(images.shape, int(stream_in_use.handle))
        if stream is None:
            stream_in_use.sync()
        else:
            self._last_event = stream_in_use.record(self._last_event)

    def attach(self, profiler: Any) -> None:
        """Attach a TensorRT profiler.

        It times only input shapes that are new from now on: a captured CUDA graph has no timing events.
        """
        self._trt_context.profiler = profiler
        self._trt_context.enqueue_emits_profile = False

    def report(self) -> bool:
        """Report the layer times of the last call, which must have finished, to the profiler.

        Returns:
            Whether TensorRT had times to report.
        """
        return bool(self._trt_context.report_to_profiler())

    def close(self) -> None:
        self.stream.sync()
        if self._last_event is not None:
            self._last_event.sync()
            self._last_event.close()
        for buffers in self._buffers_by_shape.values():
            buffers.close()
        self._buffers_by_shape.clear()
        del self._trt_context
        self.stream.close()

    def _wait_for_last_call(self, stream: Any) -> None:
        """Make a stream wait for the last call: all streams share the memory of this context."""
        if self._last_event is not None:
            stream.wait(self._last_event)

    def _buffers_for(self, shape: tuple[int, ...], dtype: np.dtype[Any], profile: int) -> "ShapeBuffers":
        """Return the buffers and CUDA graph of exactly this shape; evict the least recently used ones."""
        key = shape, profile
        if key in self._buffers_by_shape:
            self._buffers_by_shape.move_to_end(key)
            return self._buffers_by_shape[key]
        while len(self._buffers_by_shape) >= MAX_CUDA_GRAPHS:
            self.stream.sync()
            self._buffers_by_shape.popitem(last=False)[1].close()
        output_shapes = tuple((shape[0], *each.shape) for each in self._manifest.outputs)
        buffers = ShapeBuffers(
            self._core,
            self._device,
            self.stream,
            images=(shape, dtype),
            output_shapes=output_shapes,
            profile=profile,
        )
        if self._cuda_graphs:
            try:
                buffers.graph = self._capture_graph(buffers)
            except DeployError:
                buffers.close()
                raise
        self._buffers_by_shape[key] = buffers
        return buffers

    def _capture_graph(self, buffers: "ShapeBuffers") -> Any:
        """Return a CUDA graph of the execution, or None if it cannot be captured.

        TensorRT requires one execution outside of a capture first.
        """
        stream, shape = int(self.stream.handle), buffers.shape
        self.bind(buffers)
        self._execute(shape, stream)
        self.stream.sync()
        if not is_capturable(self._trt_context, stream):
            _log.warning("note: %s runs input shape %s without a CUDA graph.", self._title, shape)
            return None
        graph_builder = self.stream.create_graph_builder()
        try:
            graph_builder.begin_building("thread_local")
            self._execute(shape, stream)
            return graph_builder.end_building().complete()
        except Exception as error:  # cuda-core's exceptions share no public base class
            _log.warning("note: %s runs input shape %s without a CUDA graph: %s", self._title, shape, error)
            return None
        finally:
            with suppress(Exception):  # closing reports an invalidated capture once more
                graph_builder.close()

    def _bind(
        self, shape: tuple[int, ...], profile: int, source: int, outputs: list[int], stream: Any
    ) -> None:
        trt_context, specs = self._trt_context, self._manifest.outputs
        if self._profile != profile:
            if not trt_context.set_optimization_profile_async(profile, int(stream.handle)):
                raise self._run_error(shape)
            self._profile = profile
        if not (
            trt_context.set_input_shape(self._manifest.input.name, shape)
            and trt_context.set_tensor_address(self._manifest.input.name, source)
            and all(
                trt_context.set_tensor_address(spec.name, output)
                for spec, output in zip(specs, outputs, strict=True)
            )
        ):
            raise self._run_error(shape)

    def _execute(self, shape: tuple[int, ...], stream: int) -> None:
        if not self._trt_context.execute_async_v3(stream):
            raise self._run_error(shape)

    def _run_error(self, shape: tuple[int, ...]) -> DeployError:
        return DeployError(
            f"{self._title} failed to run images of shape {shape}.",
            code="run-failed",
            fix="build the engine for smaller batches: deploykit build-engine --batch 1,1,8",
        )


class ShapeBuffers:
    """Pinned host memory and device memory for one input shape, and the CUDA graph that uses them.

    Attributes:
        graph: None if the shape runs without a CUDA graph.
        profile: Index of the optimization profile that the shape runs with.
    """

    def __init__(
        self,
        core: Any,
        device: Any,
        stream: Any,
        *,
        images: tuple[tuple[int, ...], np.dtype[Any]],
        output_shapes: tuple[tuple[int, ...], ...],
        profile: int,
    ) -> None:
        shape, dtype = images
        pinned = core.LegacyPinnedMemoryResource()
        self.shape, self.profile = shape, profile
        self.graph: Any = None
        input_bytes = dtype.itemsize * math.prod(shape)
        outputs_bytes = [_FLOAT.itemsize * math.prod(each) for each in output_shapes]
        with ExitStack() as stack:
            try:
                self.host_input = stack.enter_context(pinned.allocate(input_bytes))
                self.host_outputs = [stack.enter_context(pinned.allocate(size)) for size in outputs_bytes]
                device_memory = device.memory_resource
                self.input = stack.enter_context(device_memory.allocate(input_bytes, stream=stream))
                self.outputs = [
                    stack.enter_context(device_memory.allocate(size, stream=stream)) for size in outputs_bytes
                ]
            except Exception as error:  # cuda-core's exceptions share no public base class
                raise DeployError(
                    f"The GPU has too little memory for images of shape {shape}: "
                    f"they need {(input_bytes + sum(outputs_bytes)) / 2**20:.0f} MiB ({error}).",
                    code="run-out-of-memory",
                    fix="run smaller batches",
                ) from error
            self._stack = stack.pop_all()
        self.staged_input = view_host_memory(self.host_input, shape, dtype)
        self.staged_outputs = [
            view_host_memory(host, each, _FLOAT)
            for host, each in zip(self.host_outputs, output_shapes, strict=True)
        ]

    def close(self) -> None:
        if self.graph is not None:
            self.graph.close()
        self._stack.close()


def view_host_memory(buffer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return a writable array over cuda-core's pinned host memory, which must outlive it.

    np.from_dlpack gives a read-only view before NumPy 2.1.

    Args:
        buffer: A cuda.core Buffer of at least as many bytes as the array, in host memory.
        shape: Shape of the array.
        dtype: Its element type.
    """
    memory = (ctypes.c_uint8 * buffer.size).from_address(int(buffer.handle))
    return np.frombuffer(memory, dtype).reshape(shape)
