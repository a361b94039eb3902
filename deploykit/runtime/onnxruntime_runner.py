"""Run ONNX Runtime engines, on the CPU or on a GPU."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import EngineManifest
from deploykit.onnx_tools.ort_session import cpu_session, cuda_session
from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.outputs import EngineOutputs, unwrap_single_output
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import ORDINAL

_DEVICE_TYPE = "cuda"


class _Runner:
    """A runner over an ONNX Runtime session, which is thread-safe and has no optimization profiles."""

    def __init__(self, path: Path, manifest: EngineManifest, session: Any) -> None:
        self._session, self._manifest, self._name = session, manifest, manifest.input.name
        actual = [*session.get_inputs(), *session.get_outputs()]
        expected = [(each.name, *each.shape) for each in (manifest.input, *manifest.outputs)]
        # ONNX Runtime gives a dynamic side as a name.
        shapes = [(each.name, *map(_resolve_dim(manifest), each.shape[1:])) for each in actual]
        if shapes != expected:
            raise DeployError(
                f"The inputs and outputs of {path} are not those in its manifest.",
                code="engine-manifest-mismatch",
                fix="rebuild the engine: deploykit build-engine",
            )

    def run(self, images: npt.NDArray[Any], profile: int) -> EngineOutputs:
        try:
            outputs = self._session.run(None, {self._name: images})
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise _run_error(images.shape, error) from error
        names = (each.name for each in self._manifest.outputs)
        return unwrap_single_output(dict(zip(names, outputs, strict=True)))

    def close(self) -> None:
        del self._session


class OnnxRuntimeCpuRunner(_Runner):
    def __init__(self, path: Path, manifest: EngineManifest, *, threads: int | None) -> None:
        super().__init__(path, manifest, cpu_session(path, threads=threads))

    def used_cuda_graphs(self) -> None:
        """Return None: there are no CUDA graphs on a CPU."""


class OnnxRuntimeCudaRunner(_Runner):
    """A runner on ONNX Runtime's CUDA provider. Written from its documentation; not run on a GPU yet."""

    def __init__(self, path: Path, manifest: EngineManifest) -> None:
        super().__init__(path, manifest, cuda_session(path))

    def used_cuda_graphs(self) -> bool:
        """Return False: ONNX Runtime's CUDA graphs are limited to one shape and one memory address."""
        return False

    def run_on_device(
        self, images: DeviceArray, outputs: tuple[DeviceArray, ...], profile: int, stream: int | None
    ) -> None:
        """Run from GPU memory to GPU memory and wait: a session does not take a stream per call."""
        spec = self._manifest.input
        binding = self._session.io_binding()
        dtype = np.dtype(images.dtype)
        binding.bind_input(spec.name, _DEVICE_TYPE, ORDINAL, dtype, images.shape, images.pointer)
        for output_spec, output in zip(self._manifest.outputs, outputs, strict=True):
            binding.bind_output(
                output_spec.name, _DEVICE_TYPE, ORDINAL, np.float32, output.shape, output.pointer
            )
        if stream is not None or images.stream is not None:  # the images may still be being written
            device = require("cuda.core", extra="gpu").Device(ORDINAL)
            device.set_current()
            device.sync()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise _run_error(images.shape, error) from error


def _run_error(shape: tuple[int, ...], error: Exception) -> DeployError:
    megabytes = 4 * math.prod(shape) / 2**20
    return DeployError(
        f"ONNX Runtime failed on images of shape {shape} ({megabytes:.0f} MiB without activations): "
        f"{str(error).splitlines()[0]}",
        code="run-out-of-memory",
        fix="run smaller batches",
    )


def _resolve_dim(manifest: EngineManifest) -> Callable[[int | str], int]:
    """Return a function that maps a dynamic dimension to the side the engine is tuned for."""
    return lambda dim: manifest.side_px if isinstance(dim, str) and manifest.side else int(dim)
