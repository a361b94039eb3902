"""Runs a plan of TensorRT or TensorRT-RTX on the GPU, with device memory and streams from cuda-core.

Written against the documented API and not yet run: no GPU has been at hand. tests/test_gpu.py,
which `make test-gpu` runs where there is one, is what will show it.
"""

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.compilers import COMPILERS
from deploykit.engine.manifest import Manifest
from deploykit.errors import DeployError
from deploykit.extras import require

_FLOAT = np.dtype(np.float32)

Array = npt.NDArray[np.float32]


class GpuRunner:
    def __init__(self, path: Path, manifest: Manifest) -> None:
        core = require("cuda.core", extra="gpu")
        facts = COMPILERS[manifest.target.compiler]
        trt = require(facts.module, install=facts.install)
        self._device = core.Device(0)
        self._device.set_current()
        self._stream = self._device.create_stream()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise DeployError(
                f"{facts.title} {trt.__version__} can't load {path}, built by {manifest.compiler_version}.",
                fix="deploykit build-engine --gpu local builds it again with this version",
            )
        self._context = self._engine.create_execution_context()
        self._manifest, self._title = manifest, facts.title
        self._buffers: _Buffers | None = None
        self._profile = 0
        self._lock = threading.Lock()

    def run(self, images: npt.NDArray[Any], profile: int) -> Array:
        """Copies in, runs, copies out, and waits."""
        with self._lock:  # one context and one set of buffers: callers take turns
            self._device.set_current()
            buffers = self._buffers_for(images.shape, profile)
            buffers.staged_input[...] = images
            buffers.input.copy_from(buffers.host_input, stream=self._stream)
            if not self._context.execute_async_v3(int(self._stream.handle)):
                raise DeployError(
                    f"{self._title} could not run a batch of {len(images)}.", fix="try a smaller --batch"
                )
            buffers.output.copy_to(buffers.host_output, stream=self._stream)
            self._stream.sync()
            return buffers.staged_output.copy()

    def close(self) -> None:
        self._stream.sync()
        if self._buffers is not None:
            self._buffers.close()
        del self._context, self._engine, self._runtime
        self._stream.close()

    def _buffers_for(self, shape: tuple[int, ...], profile: int) -> "_Buffers":
        """Buffers of exactly this shape, bound to the context; those of the last call are kept."""
        if self._profile != profile:
            self._context.set_optimization_profile_async(profile, int(self._stream.handle))
            self._profile, bound = profile, False
        else:
            bound = self._buffers is not None and self._buffers.shape == shape
        if self._buffers is None or not bound:
            if self._buffers is not None:
                self._buffers.close()
            taken, given = self._manifest.input, self._manifest.output
            dtype = np.dtype(taken.dtype)
            self._buffers = _Buffers(self._device, self._stream, shape, dtype, (shape[0], *given.shape))
            self._context.set_input_shape(taken.name, shape)
            self._context.set_tensor_address(taken.name, int(self._buffers.input.handle))
            self._context.set_tensor_address(given.name, int(self._buffers.output.handle))
        return self._buffers


class _Buffers:
    """Pinned host memory and device memory for images of one shape."""

    def __init__(
        self, device: Any, stream: Any, shape: tuple[int, ...], dtype: np.dtype[Any], answers: tuple[int, ...]
    ) -> None:
        core = require("cuda.core", extra="gpu")
        pinned = core.LegacyPinnedMemoryResource()
        self.shape = shape
        input_bytes = dtype.itemsize * math.prod(shape)
        output_bytes = _FLOAT.itemsize * math.prod(answers)
        self.host_input = pinned.allocate(input_bytes)
        self.host_output = pinned.allocate(output_bytes)
        self.input = device.memory_resource.allocate(input_bytes, stream=stream)
        self.output = device.memory_resource.allocate(output_bytes, stream=stream)
        self.staged_input = _as_array(self.host_input, shape, dtype)
        self.staged_output = _as_array(self.host_output, answers, _FLOAT)

    def close(self) -> None:
        for buffer in (self.input, self.output, self.host_input, self.host_output):
            buffer.close()


def _as_array(buffer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.from_dlpack(buffer).view(dtype).reshape(shape)
