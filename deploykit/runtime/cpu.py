"""Runs an ONNX Runtime artifact on the CPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import Manifest
from deploykit.sessions import cpu_session


class CpuRunner:
    def __init__(self, path: Path, manifest: Manifest, *, threads: int | None) -> None:
        self._session = cpu_session(path, threads=threads)
        self._input, self._output = manifest.input.name, manifest.output.name

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        (logits,) = self._session.run([self._output], {self._input: images})
        result: npt.NDArray[np.float32] = logits
        return result

    def close(self) -> None:
        del self._session
