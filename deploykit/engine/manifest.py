"""The JSON beside every engine: what it is, what it was made from, where it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploykit.engine.audit import Audit
from deploykit.engine.compilers import BuildOptions
from deploykit.engine.targets import Target
from deploykit.errors import DeployError
from deploykit.files import sha256_of, write_together
from deploykit.model_file import ModelInfo, Precision
from deploykit.quantize.summary import Int8Summary
from deploykit.serial import from_json, to_json

MAX_BATCH = 65536  # far beyond what has ever paid, and within every compiler's integers


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRange:
    """Batch sizes an engine takes, and the one it is tuned for."""

    min: int = 1
    opt: int = 1
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= MAX_BATCH:
            raise DeployError(
                f"A batch of {self.min},{self.opt},{self.max} is not MIN,OPT,MAX in rising order from 1 "
                f"to {MAX_BATCH}.",
                fix="give, say, --batch 1,8,64",
            )

    def require(self, size: int) -> None:
        """Fails where a batch of this size is outside.

        Raises:
            DeployError: it is.
        """
        if not self.min <= size <= self.max:
            raise DeployError(
                f"The engine takes batches of {self.min} to {self.max} images, not {size}.",
                fix="give such a --batch, or build with another one",
            )

    @staticmethod
    def parse(text: str) -> "BatchRange":
        """`1,8,64`, or `8` for that size alone."""
        try:
            sizes = [int(part) for part in text.split(",")]
        except ValueError:
            sizes = []
        match sizes:
            case [low, best, high]:
                return BatchRange(min=low, opt=best, max=high)
            case [only]:
                return BatchRange(min=only, opt=only, max=only)
        raise DeployError(f"{text!r} is no batch range.", fix="give one size, or MIN,OPT,MAX as in 1,8,64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output; shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is known of an engine, in the file beside it.

    Attributes:
        engine_sha256: digest of the engine file.
        precision: what was asked for, and the audit confirmed.
        compiler_version: engines run on exactly the version that built them.
        model: the model it was compiled from; its onnx_sha256 is the exported FP32 file's.
        build_seconds: wall-clock, compiling alone.
        options: what was asked of the compiler besides.
        timing_cache_sha256: of the kernels' timings that the build started from; None for none.
        int8: what of the model is in INT8; None with other precisions.
    """

    engine_sha256: str
    precision: Precision
    compiler_version: str
    target: Target
    batch: BatchRange
    input: Tensor
    output: Tensor
    model: ModelInfo
    audit: Audit
    build_seconds: float
    deploykit_version: str
    options: BuildOptions = BuildOptions()  # noqa: RUF009  # frozen
    timing_cache_sha256: str | None = None
    int8: Int8Summary | None = None
    format: Literal[1] = 1


def manifest_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def write_engine(path: Path, plan: bytes, manifest: Manifest) -> None:
    """Writes engine and manifest, both or neither; a mixed pair would show by its digest."""
    write_together({path: plan, manifest_path(path): to_json(manifest)})


def read_manifest(engine: str | Path) -> Manifest:
    """The manifest of an engine, which must be the one it was written with.

    Raises:
        DeployError: engine or manifest is missing, damaged, or of another build.
    """
    engine = Path(engine)
    if not engine.is_file():
        raise DeployError(
            f"There is no engine {engine}.", fix="deploykit build-engine makes one and names it"
        )
    path = manifest_path(engine)
    if not path.is_file():
        raise DeployError(
            f"{engine} has no manifest {path.name} beside it.",
            fix="give an engine made by deploykit build-engine",
        )
    try:
        manifest = from_json(path.read_bytes(), Manifest)
        manifest.audit.require(manifest.precision)
    except (ValueError, DeployError) as error:
        raise DeployError(f"{path} is no manifest, or was damaged.", fix="build the engine again") from error
    if sha256_of(engine) != manifest.engine_sha256:
        raise DeployError(
            f"{engine} is not the file its manifest describes: it was altered or cut short.",
            fix="copy both again, or build the engine again",
        )
    return manifest
