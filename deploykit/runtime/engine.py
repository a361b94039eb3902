"""The Engine class: check, load, run and close any engine."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import EngineManifest, is_bundle
from deploykit.engine.targets import Target
from deploykit.runtime.arrays import (
    DeviceArray,
    allocate_in_library_of,
    as_device_array,
    as_host_array,
    to_library_of,
)
from deploykit.runtime.outputs import unwrap_single_output
from deploykit.runtime.preflight import preflight
from deploykit.runtime.runner import DeviceRunner, Runner, TimingRunner
from deploykit.runtime.tensorrt.layer_profiler import LayerProfiler
from deploykit.runtime.tensorrt.timing import CallTimer
from deploykit.util.errors import DeployError
from deploykit.util.progress import Progress, no_progress

MAX_CPU_THREADS = 1024
_POOL_THREAD_NAME = "deploykit-submitted"
_MAX_PROFILES = 1000  # input shapes whose profile is cached


def require_cpu_target(target: Target, threads: int) -> None:
    """Raise an error if a number of CPU threads would be ignored.

    Raises:
        DeployError: The engine is for a GPU.
    """
    if not target.on_cpu:
        raise DeployError(
            f"--threads {threads} sets CPU threads, but this engine is for {target.title}.",
            code="option-not-applicable",
            fix="leave out --threads",
        )


class Engine:
    """A loaded engine, safe to call from many threads.

        with Engine.load("model.int8.cpu.onnx") as engine:
            logits = engine(images)

    Attributes:
        path: The engine file.
        manifest: What the engine is, takes and returns.
    """

    def __init__(self, path: Path, manifest: EngineManifest, runner: Runner) -> None:
        self.path = path
        self.manifest = manifest
        self._runner: Runner | None = runner
        self._pool: ThreadPoolExecutor | None = None
        self._profiles: dict[tuple[tuple[int, ...], np.dtype[Any]], int] = {}
        self._calls = 0
        self._idle = threading.Condition()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        cuda_graphs: bool = True,
        progress: Progress = no_progress,
    ) -> Self:
        """Load an engine after checking that this machine can run it.

        Args:
            path: The engine file, with its manifest beside it. Or a bundle: its plan for this machine is
                used, or an engine is built and kept in the user's cache folder.
            threads: CPU threads, 1 to 1024, for an engine on the CPU; default one per core.
            cuda_graphs: On a GPU, capture a CUDA graph for each input shape and replay it, instead of
                launching each kernel.
            progress: Receives the progress of building an engine.

        Raises:
            DeployError: A file is missing or was modified, or the engine is for another machine.
        """
        path = Path(path)
        if threads is not None and not (isinstance(threads, Integral) and 1 <= threads <= MAX_CPU_THREADS):
            raise DeployError(
                f"threads must be a whole number from 1 to {MAX_CPU_THREADS}, but is {threads}.",
                code="invalid-thread-count",
                fix="leave it out to use one thread per core",
            )
        if is_bundle(path):
            from deploykit.runtime.bundle.bundle import Bundle

            path = Bundle(path).prepare_engine(progress=progress)
        checked = preflight(path)
        checked.require()
        manifest = checked.manifest
        if threads is not None:
            require_cpu_target(manifest.target, threads)
        if manifest.target.compiler == "onnxruntime":
            from deploykit.runtime.onnxruntime_runner import OnnxRuntimeCpuRunner, OnnxRuntimeCudaRunner

            if manifest.target.on_cpu:
                return cls(path, manifest, OnnxRuntimeCpuRunner(path, manifest, threads=threads))
            return cls(path, manifest, OnnxRuntimeCudaRunner(path, manifest))
        from deploykit.runtime.tensorrt.runner import TensorRTRunner

        return cls(path, manifest, TensorRTRunner(path, manifest, cuda_graphs=cuda_graphs))

    def __call__(self, images: Any) -> Any:
        """Run a batch of images.

        The manifest says what the engine takes: (n, 3, side, side) float32, or (n, side, side, 3) uint8.

        Args:
            images: A NumPy array, or an array of a library that supports DLPack, such as torch. For an engine
                on the GPU also an array on that GPU: of torch, CuPy or PyCUDA, or a cuda-core Buffer of
                exactly the images' bytes. It is not copied on its device.

        Returns:
            (n, classes) float32 logits. An engine with several outputs returns a dict; a detector's has
            `boxes`, (n, anchors, 4), and `scores`, (n, anchors, classes). The arrays are of the same library
            and on the same device as the images; NumPy arrays if the library has no from_dlpack.

        Raises:
            DeployError: The shape, type or device is wrong, or the engine is closed.
        """
        runner = self._begin_call()
        try:
            return self._run(runner, images)
        finally:
            self._end_call()

    def _run(self, runner: Runner, images: Any) -> Any:
        if type(images) is np.ndarray:
            return runner.run(images, self._profile_for(images))
        device_images = as_device_array(images)
        if device_images is not None:
            return self._run_on_device(runner, images, device_images, stream=None)
        host_images = as_host_array(images)
        outputs = runner.run(host_images, self._profile_for(host_images))
        if isinstance(outputs, dict):
            return {name: to_library_of(images, each) for name, each in outputs.items()}
        return to_library_of(images, outputs)

    def _profile_for(self, images: npt.NDArray[Any]) -> int:
        """Return the index of the profile for these images; cached, because most shapes repeat."""
        key = images.shape, images.dtype
        profile = self._profiles.get(key)
        if profile is None:
            profile = self.manifest.profile_for(images.shape, str(images.dtype))
            if len(self._profiles) < _MAX_PROFILES:
                self._profiles[key] = profile
        return profile

    def submit(self, images: Any, *, stream: int | None = None) -> "Future[Any]":
        """Start a call and return a future of its result.

        Args:
            stream: Handle of a CUDA stream to run on, for images on the GPU. The future is done at once; its
                result is valid when the stream has finished.

        Raises:
            DeployError: As for a call; some errors come with the result instead.
        """
        device_images = as_device_array(images)
        if device_images is None and stream is not None:
            raise DeployError(
                "A stream was given, but the images are not on the GPU.",
                code="stream-not-applicable",
                fix="leave out stream, or copy the images to the GPU",
            )
        if device_images is not None and stream is not None:
            done: Future[Any] = Future()
            runner = self._begin_call()
            try:
                done.set_result(self._run_on_device(runner, images, device_images, stream=stream))
            finally:
                self._end_call()
            return done
        with self._idle:
            runner = self._open_runner()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=_POOL_THREAD_NAME)
            return self._pool.submit(self._run, runner, images)

    def _run_on_device(
        self, runner: Runner, images: Any, device_images: DeviceArray, *, stream: int | None
    ) -> Any:
        if not isinstance(runner, DeviceRunner):
            raise DeployError(
                f"The images are on a GPU, but {self.path} runs on the CPU.",
                code="array-on-gpu",
                fix="copy the images to the host first",
            )
        device_images = device_images.as_images(self.manifest.input.shape, self.manifest.input.dtype)
        profile = self.manifest.profile_for(device_images.shape, device_images.dtype)
        specs = self.manifest.outputs
        outputs = {
            each.name: allocate_in_library_of(images, (device_images.shape[0], *each.shape)) for each in specs
        }
        device_outputs = []
        for spec, output in zip(specs, outputs.values(), strict=True):
            device_output = as_device_array(output)
            assert device_output is not None  # noqa: S101  # it was just allocated there
            device_outputs.append(device_output.as_images(spec.shape, spec.dtype))
        runner.run_on_device(device_images, tuple(device_outputs), profile, stream)
        return unwrap_single_output(outputs)

    @property
    def used_cuda_graphs(self) -> bool | None:
        """Whether all calls so far with images on the host were launched as CUDA graphs; None on a CPU."""
        return self._open_runner().used_cuda_graphs()

    @contextmanager
    def time_calls(self, images: npt.NDArray[Any]) -> Iterator[CallTimer]:
        """Time calls with these images inside a with block, on the thread that entered it.

        Raises:
            DeployError: As for a call; or the engine is not a TensorRT or TensorRT-RTX engine.
        """
        with self._begin_timing() as runner, runner.time_calls(images, self._profile_for(images)) as call:
            yield call

    @contextmanager
    def profile_layers(self, images: npt.NDArray[Any]) -> Iterator[LayerProfiler]:
        """Time the layers of calls with these images; used like `time_calls`.

        Raises:
            DeployError: As for `time_calls`.
        """
        with self._begin_timing() as runner, runner.profile_layers(images, self._profile_for(images)) as call:
            yield call

    @contextmanager
    def _begin_timing(self) -> Iterator[TimingRunner]:
        runner = self._begin_call()
        try:
            if not isinstance(runner, TimingRunner):
                raise DeployError(
                    f"{self.path} runs in ONNX Runtime, which cannot time the GPU's part of a call.",
                    code="gpu-timing-unavailable",
                    fix="use --scope end-to-end, or a TensorRT or TensorRT-RTX engine on a GPU",
                )
            yield runner
        finally:
            self._end_call()

    def _begin_call(self) -> Runner:
        """Return the runner and keep it alive until the call ends, even if the engine is closed meanwhile."""
        with self._idle:
            runner = self._open_runner()
            self._calls += 1
        return runner

    def _end_call(self) -> None:
        with self._idle:
            self._calls -= 1
            if self._runner is None:
                self._idle.notify_all()

    def _open_runner(self) -> Runner:
        if self._runner is None:
            raise DeployError(
                f"The engine {self.path} is closed.",
                code="engine-closed",
                fix="call it inside its with block",
            )
        return self._runner

    def close(self) -> None:
        """Wait for running and submitted calls, then free the memory. Closing twice is allowed."""
        with self._idle:
            runner, pool = self._runner, self._pool
            self._runner = self._pool = None
            self._idle.wait_for(lambda: self._calls == 0)
        if pool is not None:  # a callback on the pool's only thread cannot wait for that thread
            is_waiting_for_itself = threading.current_thread().name.startswith(_POOL_THREAD_NAME)
            pool.shutdown(wait=not is_waiting_for_itself, cancel_futures=is_waiting_for_itself)
        if runner is not None:
            runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
