"""Runs an ONNX Runtime artifact on the CPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import Manifest
from deploykit.errors import DeployError
from deploykit.sessions import cpu_session


class CpuRunner:
    def __init__(self, path: Path, manifest: Manifest, *, threads: int | None) -> None:
        self._session = cpu_session(path, threads=threads)
        found = [*self._session.get_inputs(), *self._session.get_outputs()]
        described = [(each.name, *each.shape) for each in (manifest.input, manifest.output)]
        if [(each.name, *each.shape[1:]) for each in found] != described:
            raise DeployError(
                f"{path} has other inputs and outputs than its manifest says.", fix="build the engine again"
            )

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        (logits,) = self._session.run(None, {self._session.get_inputs()[0].name: images})
        result: npt.NDArray[np.float32] = logits
        return result

    def close(self) -> None:
        del self._session
