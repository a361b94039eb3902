"""One class for every engine: preflight, load, run, close."""

import threading
from collections.abc import Callable, Iterator
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

MAX_CPU_THREADS = 1024
_SUBMITTED = "deploykit-submitted"
_MOST_PROFILES = 1000  # shapes that are remembered


def require_cpu_target(target: Target, threads: int) -> None:
    """Fails where so many CPU threads would be ignored.

    Raises:
        DeployError: the engine is for a GPU.
    """
    if not target.on_cpu:
        raise DeployError(
            f"{threads} threads are of the CPU, and this engine is for {target.title}.",
            code="option-not-applicable",
            fix="leave out --threads",
        )


class Engine:
    """A loaded engine, safe from many threads.

    with Engine.load("model.int8.cpu.onnx") as engine:
        logits = engine(images)
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
        progress: Callable[[str], None] = lambda sentence: None,
    ) -> Self:
        """Loads an engine after checking that this machine can run it.

        Args:
            path: the engine file, its manifest beside it; or a bundle, of which the plan that runs here is
                taken, or one built and kept in the user's cache folder.
            threads: of the CPU, for an engine on it; default one a core.
            cuda_graphs: on a GPU, replay what was recorded of each shape instead of launching it kernel by
                kernel.
            progress: told what is being built.

        Raises:
            DeployError: altered or missing files, or an engine for another machine.
        """
        path = Path(path)
        if threads is not None and not (isinstance(threads, Integral) and 1 <= threads <= MAX_CPU_THREADS):
            raise DeployError(
                f"{threads} threads are not a number between 1 and {MAX_CPU_THREADS}.",
                code="invalid-thread-count",
                fix="give none, or fewer",
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
        """(n, 3, side, side) float32, or (n, side, side, 3) uint8 -> (n, classes) float32 logits.

        Which of the two, and what sizes, its manifest says. An engine with several outputs answers with a
        dict: of a detector `boxes`, (n, anchors, 4), and `scores`, (n, anchors, classes).

        Args:
            images: a NumPy array, or one of a library that speaks DLPack, as torch; or, for an engine on
                the GPU, one that is there (torch, CuPy, PyCUDA, or a cuda-core Buffer of as many bytes as
                the images have). It is not copied on its side.

        Returns:
            An array of the same library, in the same place; of a library without from_dlpack, a NumPy array.

        Raises:
            DeployError: another shape or type, an array in another place, or the engine is closed.
        """
        runner = self._begin()
        try:
            return self._run(runner, images)
        finally:
            self._end()

    def _run(self, runner: Runner, images: Any) -> Any:
        if type(images) is np.ndarray:
            return runner.run(images, self._profile_for(images))
        there = as_device_array(images)
        if there is not None:
            return self._run_on_device(runner, images, there, stream=None)
        given = as_host_array(images)
        made = runner.run(given, self._profile_for(given))
        if isinstance(made, dict):
            return {name: to_library_of(images, each) for name, each in made.items()}
        return to_library_of(images, made)

    def _profile_for(self, images: npt.NDArray[Any]) -> int:
        """As the manifest says, which was asked before for most images."""
        key = images.shape, images.dtype
        profile = self._profiles.get(key)
        if profile is None:
            profile = self.manifest.profile_for(images.shape, str(images.dtype))
            if len(self._profiles) < _MOST_PROFILES:
                self._profiles[key] = profile
        return profile

    def submit(self, images: Any, *, stream: int | None = None) -> "Future[Any]":
        """Begins what a call does; the answer is the future's result.

        Args:
            stream: handle of a CUDA stream to run on, for images on the GPU: the future is done at once, and
                the answer when the stream is.

        Raises:
            DeployError: as a call; some come with the result.
        """
        there = as_device_array(images)
        if there is None and stream is not None:
            raise DeployError(
                "A stream is for images on the GPU, and these are not.",
                code="stream-not-applicable",
                fix="leave out stream, or bring them over",
            )
        if there is not None and stream is not None:
            done: Future[Any] = Future()
            runner = self._begin()
            try:
                done.set_result(self._run_on_device(runner, images, there, stream=stream))
            finally:
                self._end()
            return done
        with self._idle:
            runner = self._open_runner()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=_SUBMITTED)
            return self._pool.submit(self._run, runner, images)

    def _run_on_device(self, runner: Runner, images: Any, there: DeviceArray, *, stream: int | None) -> Any:
        if not isinstance(runner, DeviceRunner):
            raise DeployError(
                f"These images are on a GPU; {self.path} runs on the CPU.",
                code="array-on-gpu",
                fix="bring them over first",
            )
        there = there.as_images(self.manifest.input.shape, self.manifest.input.dtype)
        profile = self.manifest.profile_for(there.shape, there.dtype)
        outputs = self.manifest.outputs
        answers = {
            each.name: allocate_in_library_of(images, (there.shape[0], *each.shape)) for each in outputs
        }
        places = []
        for output, answer in zip(outputs, answers.values(), strict=True):
            place = as_device_array(answer)
            assert place is not None  # noqa: S101  # it was made there
            places.append(place.as_images(output.shape, output.dtype))
        runner.run_on_device(there, tuple(places), profile, stream)
        return unwrap_single_output(answers)

    @property
    def used_cuda_graphs(self) -> bool | None:
        """Whether all calls so far, of images on the host, were launched as CUDA graphs; None on a CPU."""
        return self._open_runner().used_cuda_graphs()

    @contextmanager
    def time_calls(self, images: npt.NDArray[Any]) -> Iterator[CallTimer]:
        """A call to be timed in parts, while the with block lasts, by the thread that entered it.

        Raises:
            DeployError: as a call; or the engine is not one of TensorRT's or TensorRT-RTX's.
        """
        with self._timing() as runner, runner.time_calls(images, self._profile_for(images)) as call:
            yield call

    @contextmanager
    def profile_layers(self, images: npt.NDArray[Any]) -> Iterator[LayerProfiler]:
        """A call whose layers are timed, as `timed`.

        Raises:
            DeployError: as `timed`.
        """
        with self._timing() as runner, runner.profile_layers(images, self._profile_for(images)) as call:
            yield call

    @contextmanager
    def _timing(self) -> Iterator[TimingRunner]:
        runner = self._begin()
        try:
            if not isinstance(runner, TimingRunner):
                raise DeployError(
                    f"ONNX Runtime runs {self.path}, and tells nothing of what a GPU takes of a call.",
                    code="gpu-timing-unavailable",
                    fix="time it end to end, or give an engine of TensorRT or TensorRT-RTX for a GPU",
                )
            yield runner
        finally:
            self._end()

    def _begin(self) -> Runner:
        """What runs a call, which stays until the call ends, whoever closes the engine meanwhile."""
        with self._idle:
            runner = self._open_runner()
            self._calls += 1
        return runner

    def _end(self) -> None:
        with self._idle:
            self._calls -= 1
            if self._runner is None:
                self._idle.notify_all()

    def _open_runner(self) -> Runner:
        if self._runner is None:
            raise DeployError(
                f"{self.path} was closed.", code="engine-closed", fix="call it inside its with block"
            )
        return self._runner

    def close(self) -> None:
        """Waits for what runs and what was submitted, and gives back the memory; may be called again."""
        with self._idle:
            runner, pool = self._runner, self._pool
            self._runner = self._pool = None
            self._idle.wait_for(lambda: self._calls == 0)
        if pool is not None:  # in a future's callback, on the pool's one thread, nothing else can be running
            is_waiting_for_itself = threading.current_thread().name.startswith(_SUBMITTED)
            pool.shutdown(wait=not is_waiting_for_itself, cancel_futures=is_waiting_for_itself)
        if runner is not None:
            runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
