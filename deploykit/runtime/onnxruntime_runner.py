"""Runs an ONNX Runtime artifact, on the CPU or on a GPU."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import EngineManifest
from deploykit.onnx_tools.ort_session import cpu_session, cuda_session
from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.outputs import Outputs, unwrap_single_output
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import ORDINAL

_PLACE = "cuda"


class _Runner:
    """Sessions are safe from many threads, and know no profiles."""

    def __init__(self, path: Path, manifest: EngineManifest, session: Any) -> None:
        self._session, self._manifest, self._name = session, manifest, manifest.input.name
        found = [*session.get_inputs(), *session.get_outputs()]
        described = [(each.name, *each.shape) for each in (manifest.input, *manifest.outputs)]
        # A dynamic side is a name there.
        shapes = [(each.name, *map(_or_side(manifest), each.shape[1:])) for each in found]
        if shapes != described:
            raise DeployError(
                f"{path} has other inputs and outputs than its manifest says.",
                code="engine-manifest-mismatch",
                fix="build the engine again",
            )

    def run(self, images: npt.NDArray[Any], profile: int) -> Outputs:
        try:
            made = self._session.run(None, {self._name: images})
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise _refusal(images.shape, error) from error
        names = (each.name for each in self._manifest.outputs)
        return unwrap_single_output(dict(zip(names, made, strict=True)))

    def close(self) -> None:
        del self._session


class OnnxRuntimeCpuRunner(_Runner):
    def __init__(self, path: Path, manifest: EngineManifest, *, threads: int | None) -> None:
        super().__init__(path, manifest, cpu_session(path, threads=threads))

    def used_cuda_graphs(self) -> None:
        """There are none on a CPU."""


class OnnxRuntimeCudaRunner(_Runner):
    """Written against the documented API and not yet run: no GPU has been at hand."""

    def __init__(self, path: Path, manifest: EngineManifest) -> None:
        super().__init__(path, manifest, cuda_session(path))

    def used_cuda_graphs(self) -> bool:
        """ONNX Runtime's own are for one shape and one place in memory."""
        return False

    def run_on_device(
        self, images: DeviceArray, answers: tuple[DeviceArray, ...], profile: int, stream: int | None
    ) -> None:
        """Runs from memory of the GPU to memory of the GPU, and waits: sessions take no stream a call."""
        taken = self._manifest.input
        binding = self._session.io_binding()
        dtype = np.dtype(images.dtype)
        binding.bind_input(taken.name, _PLACE, ORDINAL, dtype, images.shape, images.pointer)
        for given, answer in zip(self._manifest.outputs, answers, strict=True):
            binding.bind_output(given.name, _PLACE, ORDINAL, np.float32, answer.shape, answer.pointer)
        if stream is not None or images.stream is not None:  # what makes the images is still at it
            device = require("cuda.core", extra="gpu").Device(ORDINAL)
            device.set_current()
            device.sync()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise _refusal(images.shape, error) from error


def _refusal(shape: tuple[int, ...], error: Exception) -> DeployError:
    megabytes = 4 * math.prod(shape) / 2**20
    return DeployError(
        f"ONNX Runtime can't run images of {shape}, {megabytes:.0f} MiB and what comes of them: "
        f"{str(error).splitlines()[0]}",
        code="run-out-of-memory",
        fix="give smaller batches",
    )


def _or_side(manifest: EngineManifest) -> Callable[[int | str], int]:
    """What the manifest has for a dimension: of dynamic ones the side the engine is tuned for."""
    return lambda dim: manifest.side_px if isinstance(dim, str) and manifest.side else int(dim)
