"""Runs a plan of TensorRT or TensorRT-RTX on the GPU, with device memory and streams from cuda-core.

Not yet run on a GPU. tests/runtime/test_gpu_runner.py runs it on cuda-core over a stub of the driver; on a
machine with a GPU, `make test-gpu` runs tests/runtime/test_gpu.py.
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
from deploykit.runtime.outputs import Outputs
from deploykit.runtime.tensorrt.execution_context import ExecutionContext
from deploykit.runtime.tensorrt.layer_profiler import LayerProfiler
from deploykit.runtime.tensorrt.plan import create_execution_context, deserialize_plan
from deploykit.runtime.tensorrt.timing import CallTimer
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import ORDINAL


class TensorRTRunner:
    """Safe from many threads: calls at the same time have contexts, streams and buffers of their own."""

    def __init__(self, path: Path, manifest: EngineManifest, *, cuda_graphs: bool = True) -> None:
        self._core = require("cuda.core", extra="gpu")
        try:
            self._device = self._core.Device(ORDINAL)
            self._device.set_current()
        except Exception as error:  # cuda-core's exceptions share no public base class
            raise DeployError(
                f"The GPU can't be used: {str(error).splitlines()[0]}",
                code="gpu-unusable",
                fix="install or update NVIDIA's driver; nvidia-smi shows which is there",
            ) from error
        self._runtime, self._engine = deserialize_plan(path, manifest)
        self._manifest, self._cuda_graphs = manifest, cuda_graphs
        self._title = manifest.target.compiler_title
        self._idle: list[ExecutionContext] = []
        self._lock = threading.Lock()

    def run(self, images: npt.NDArray[Any], profile: int) -> Outputs:
        """Copies in, runs, copies out, and waits."""
        with self._lane() as lane:
            return lane.run(images, profile)

    def run_on_device(
        self, images: DeviceArray, answers: tuple[DeviceArray, ...], profile: int, stream: int | None
    ) -> None:
        """Runs from memory of the GPU to memory of the GPU.

        Args:
            answers: memory for each output.
            stream: a handle to enqueue on, without waiting; None for a stream of its own, and waiting.
        """
        with self._lane() as lane:
            lane.run_on_device(images, answers, profile, stream)

    @contextmanager
    def time_calls(self, images: npt.NDArray[Any], profile: int) -> Iterator[CallTimer]:
        """A call to be timed, on a lane of its own."""
        with self._lane() as lane:
            call = CallTimer(self._core, self._device, lane, images, profile)
            try:
                yield call
            finally:
                call.close()

    @contextmanager
    def profile_layers(self, images: npt.NDArray[Any], profile: int) -> Iterator[LayerProfiler]:
        """A call whose layers are timed, on a lane that goes with it: a profiler slows its context down."""
        trt = require(COMPILERS[self._manifest.target.compiler].module)
        self._device.set_current()
        lane = self._new_lane()
        try:
            yield LayerProfiler(trt, lane, images, profile)
        finally:
            lane.close()

    def used_cuda_graphs(self) -> bool:
        """Whether all calls so far, of images on the host, were launched as CUDA graphs."""
        with self._lock:
            return self._cuda_graphs and not any(lane.has_executed for lane in self._idle)

    def close(self) -> None:
        """Calls that still run are the caller's to wait for."""
        self._device.set_current()  # each thread has to
        while self._idle:
            self._idle.pop().close()
        del self._engine, self._runtime

    @contextmanager
    def _lane(self) -> Iterator[ExecutionContext]:
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

    def _new_lane(self) -> ExecutionContext:
        context = create_execution_context(self._engine, self._manifest)
        if context is None:
            needed = self._engine.device_memory_size_v2 / 2**20
            raise DeployError(
                f"{self._title} has no room for another context, of {needed:.0f} MiB, on the GPU.",
                code="run-out-of-memory",
                fix="call it from fewer threads, or build it with a smaller --batch",
            )
        return ExecutionContext(
            self._core,
            self._device,
            context,
            self._manifest,
            title=self._title,
            cuda_graphs=self._cuda_graphs,
        )
