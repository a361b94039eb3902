"""Runs a TensorRT-RTX plan on the GPU, with device memory and streams from cuda-core.

Written against the documented API and not yet run: no GPU has been at hand. tests/test_gpu.py,
which `make test-gpu` runs where there is one, is what will show it.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import Manifest
from deploykit.errors import DeployError
from deploykit.extras import require

_FLOAT_BYTES = 4


class GpuRunner:
    def __init__(self, path: Path, manifest: Manifest) -> None:
        core = require("cuda.core", extra="gpu")
        trt = require("tensorrt_rtx", extra="gpu")
        self._device = core.Device(0)
        self._device.set_current()
        self._stream = self._device.create_stream()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise DeployError(
                f"TensorRT-RTX {trt.__version__} can't load {path}, built by {manifest.compiler_version}.",
                fix="deploykit build-engine --gpu local builds it again with this version",
            )
        self._context = self._engine.create_execution_context()
        self._manifest = manifest
        largest = manifest.batch.max
        self._host_input, self._input = self._buffers(largest, manifest.input.shape)
        self._host_output, self._output = self._buffers(largest, manifest.output.shape)
        self._context.set_tensor_address(manifest.input.name, int(self._input.handle))
        self._context.set_tensor_address(manifest.output.name, int(self._output.handle))

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Copies in, runs, copies out, and waits."""
        manifest = self._manifest
        staged = _view(self._host_input, images.shape)
        logits = _view(self._host_output, (len(images), *manifest.output.shape))
        staged[...] = images
        self._context.set_input_shape(manifest.input.name, images.shape)
        self._input.copy_from(self._host_input, stream=self._stream)
        if not self._context.execute_async_v3(int(self._stream.handle)):
            raise DeployError(
                f"TensorRT-RTX could not run a batch of {len(images)}.", fix="try a smaller batch"
            )
        self._output.copy_to(self._host_output, stream=self._stream)
        self._stream.sync()
        return logits.copy()

    def close(self) -> None:
        self._stream.sync()
        for buffer in (self._input, self._output, self._host_input, self._host_output):
            buffer.close()
        del self._context, self._engine, self._runtime

    def _buffers(self, batch: int, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """A pinned host buffer and a device buffer for a whole batch."""
        core = require("cuda.core", extra="gpu")
        size = batch * math.prod(shape) * _FLOAT_BYTES
        host = core.LegacyPinnedMemoryResource().allocate(size)
        return host, self._device.memory_resource.allocate(size, stream=self._stream)


def _view(buffer: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The start of a pinned buffer as an array."""
    flat: npt.NDArray[np.float32] = np.from_dlpack(buffer).view(np.float32)
    return flat[: math.prod(shape)].reshape(shape)
