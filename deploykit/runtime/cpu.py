"""Runs an ONNX Runtime artifact on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        # A dynamic side is a name there.
        shapes = [(each.name, *map(_or_side(manifest), each.shape[1:])) for each in found]
        if shapes != described:
            raise DeployError(
                f"{path} has other inputs and outputs than its manifest says.", fix="build the engine again"
            )

    def run(self, images: npt.NDArray[Any], profile: int) -> npt.NDArray[np.float32]:
        """ONNX Runtime knows no profiles."""
        (logits,) = self._session.run(None, {self._session.get_inputs()[0].name: images})
        result: npt.NDArray[np.float32] = logits
        return result

    def close(self) -> None:
        del self._session


def _or_side(manifest: Manifest) -> Callable[[int | str], int]:
    """What the manifest has for a dimension: of dynamic ones the side the engine is tuned for."""
    return lambda dim: manifest.side_px if isinstance(dim, str) and manifest.side else int(dim)
