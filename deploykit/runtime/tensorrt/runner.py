"""Run a plan of TensorRT or TensorRT-RTX on the GPU, with device memory and streams from cuda-core.

This has not run on a GPU yet. tests/runtime/test_gpu_runner.py runs it on cuda-core over a stub of the
driver; on a machine with a GPU, `make test-gpu` runs tests/runtime/test_gpu.py.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from deploykit.engine.compilers import COMPILERS
from deploykit.engine.manifest import EngineManifest
from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.outputs import EngineOutputs
from deploykit.runtime.tensorrt.execution_context import ExecutionContext
from deploykit.runtime.tensorrt.layer_profiler import LayerProfiler
from deploykit.runtime.tensorrt.plan import create_execution_context, deserialize_plan
from deploykit.runtime.tensorrt.timing import CallTimer
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import ORDINAL


class TensorRTRunner:
    """A runner that is safe to call from many threads.

    Each concurrent call uses an execution context, a stream and buffers that no other call uses meanwhile.
    """

    def __init__(self, path: Path, manifest: EngineManifest, *, cuda_graphs: bool = True) -> None:
        self._core = require("cuda.core", extra="gpu")
        try:
            self._device = self._core.Device(ORDINAL)
            self._device.set_current()
        except Exception as error:  # cuda-core's exceptions share no public base class
            raise DeployError(
                f"The GPU cannot be used: {str(error).splitlines()[0]}",
                code="gpu-unusable",
                fix="install or update NVIDIA's driver; nvidia-smi shows the installed version",
            ) from error
        self._runtime, self._engine = deserialize_plan(path, manifest)
        self._manifest, self._cuda_graphs = manifest, cuda_graphs
        self._title = manifest.target.compiler_title
        self._idle: list[ExecutionContext] = []
        self._lock = threading.Lock()

    def run(self, images: npt.NDArray[Any], profile: int) -> EngineOutputs:
        """Copy images to the GPU, run them, copy the outputs back, and wait."""
        with self._borrow_context() as context:
            return context.run(images, profile)

    def run_on_device(
        self, images: DeviceArray, outputs: tuple[DeviceArray, ...], profile: int, stream: int | None
    ) -> None:
        """Run images that are in device memory and leave the outputs there.

        Args:
            outputs: Device memory for each output.
            stream: Handle of the CUDA stream to enqueue on, without waiting; None to run on a stream of the
                runner and wait.
        """
        with self._borrow_context() as context:
            context.run_on_device(images, outputs, profile, stream)

    @contextmanager
    def time_calls(self, images: npt.NDArray[Any], profile: int) -> Iterator[CallTimer]:
        """Time calls with these images on an execution context that no other call uses meanwhile."""
        with self._borrow_context() as context:
            call = CallTimer(self._core, self._device, context, images, profile)
            try:
                yield call
            finally:
                call.close()

    @contextmanager
    def profile_layers(self, images: npt.NDArray[Any], profile: int) -> Iterator[LayerProfiler]:
        """Time the layers of calls with these images.

        The execution context is closed afterwards, because a profiler slows its context down.
        """
        trt = require(COMPILERS[self._manifest.target.compiler].module)
        self._device.set_current()
        context = self._create_context()
        try:
            yield LayerProfiler(trt, context, images, profile)
        finally:
            context.close()

    def used_cuda_graphs(self) -> bool:
        """Return whether all calls so far with images on the host were launched as CUDA graphs."""
        with self._lock:
            return self._cuda_graphs and not any(context.launched_without_graph for context in self._idle)

    def close(self) -> None:
        """Free everything; the caller waits for running calls first."""
        self._device.set_current()  # each thread must
        while self._idle:
            self._idle.pop().close()
        del self._engine, self._runtime

    @contextmanager
    def _borrow_context(self) -> Iterator[ExecutionContext]:
        """Borrow an idle execution context (its CUDA graphs are already captured), or create one."""
        self._device.set_current()
        with self._lock:
            context = self._idle.pop() if self._idle else None
        context = context or self._create_context()
        try:
            yield context
        finally:
            with self._lock:
                self._idle.append(context)

    def _create_context(self) -> ExecutionContext:
        trt_context = create_execution_context(self._engine, self._manifest)
        if trt_context is None:
            needed = self._engine.device_memory_size_v2 / 2**20
            raise DeployError(
                f"The GPU has too little memory for another execution context of {self._title}, "
                f"which needs {needed:.0f} MiB.",
                code="run-out-of-memory",
                fix="call it from fewer threads, or build it for a smaller --batch",
            )
        return ExecutionContext(
            self._core,
            self._device,
            trt_context,
            self._manifest,
            title=self._title,
            cuda_graphs=self._cuda_graphs,
        )
