"""One class for every engine: preflight, load, run, close."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import Manifest
from deploykit.errors import DeployError
from deploykit.runtime.preflight import preflight

Array = npt.NDArray[np.float32]
Images = npt.NDArray[np.float32] | npt.NDArray[np.uint8]


class Runner(Protocol):
    """What runs an engine's own file."""

    def run(self, images: Images, profile: int) -> Array:
        """Args: profile: which of the manifest's batches the engine is to run by."""

    def close(self) -> None: ...


class Engine:
    """A loaded engine.

    with Engine.load("model.int8.cpu.onnx") as engine:
        logits = engine(images)
    """

    def __init__(self, path: Path, manifest: Manifest, runner: Runner) -> None:
        self.path = path
        self.manifest = manifest
        self._runner: Runner | None = runner

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        progress: Callable[[str], None] = lambda sentence: None,
    ) -> Self:
        """Loads an engine after checking that this machine can run it.

        Args:
            path: the engine file, its manifest beside it; or a bundle, of which the plan that runs here is
                taken, or one built and kept in the user's cache folder.
            threads: for the CPU; default one a core.
            progress: told what is being built.

        Raises:
            DeployError: altered or missing files, or an engine for another machine.
        """
        path = Path(path)
        if is_bundle(path):
            from deploykit.runtime.bundle import Bundle

            path = Bundle(path).engine(progress=progress)
        checked = preflight(path)
        checked.require()
        manifest = checked.manifest
        if manifest.target.compiler == "onnxruntime":
            from deploykit.runtime.cpu import CpuRunner

            return cls(path, manifest, CpuRunner(path, manifest, threads=threads))
        from deploykit.runtime.gpu import GpuRunner

        return cls(path, manifest, GpuRunner(path, manifest))

    def __call__(self, images: Images) -> Array:
        """(n, 3, side, side) float32, or (n, side, side, 3) uint8 -> (n, classes) float32 logits.

        Which of the two, and what sizes, its manifest says.

        Raises:
            DeployError: another shape or type, or the engine is closed.
        """
        if self._runner is None:
            raise DeployError(f"{self.path} was closed.", fix="call it inside its with block")
        profile = self.manifest.profile_for(images.shape, str(images.dtype))
        return self._runner.run(images, profile)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_bundle(path: Path) -> bool:
    """Whether a file is a ZIP archive, which engines and ONNX models are not."""
    if not path.is_file():
        return path.suffix == ".dkb"
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
