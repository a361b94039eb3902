"""The JSON beside every engine: what it is, what it was made from, where it runs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploykit.engine.audit import Audit
from deploykit.engine.targets import Compiler, Target
from deploykit.errors import DeployError
from deploykit.files import sha256_of, write_atomically
from deploykit.model_file import ModelInfo, Precision
from deploykit.preprocessing import Preprocessing

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRange:
    """Batch sizes an engine takes, and the one it is tuned for."""

    min: int = 1
    opt: int = 1
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise DeployError(
                f"A batch of {self.min},{self.opt},{self.max} is not MIN,OPT,MAX in rising order from 1.",
                fix="give, say, --batch 1,8,64",
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
        raise DeployError(f"{text!r} is not a batch range.", fix="give MIN,OPT,MAX, as in --batch 1,8,64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output; shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Attributes.

    engine_sha256: digest of the engine file.
    precision: what was asked for, and the audit confirmed.
    compiler_version: engines run on exactly the version that built them.
    model: the model it was compiled from; its onnx_sha256 is the exported FP32 file's.
    build_seconds: wall-clock, compiling alone.
    """

    engine_sha256: str
    precision: Precision
    compiler: Compiler
    compiler_version: str
    target: Target
    batch: BatchRange
    input: Tensor
    output: Tensor
    model: ModelInfo
    audit: Audit
    build_seconds: float
    deploykit_version: str

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "Manifest":
        fields: dict[str, Any] = json.loads(text)
        if fields.pop("format") != _FORMAT:
            raise ValueError("another format")
        model = fields.pop("model")
        preprocessing = Preprocessing.from_json(json.dumps(model.pop("preprocessing")))
        return Manifest(
            **{
                **fields,
                "target": Target(**fields["target"]),
                "batch": BatchRange(**fields["batch"]),
                "input": _tensor(fields["input"]),
                "output": _tensor(fields["output"]),
                "audit": Audit(**fields["audit"]),
            },
            model=ModelInfo(**model, preprocessing=preprocessing),
        )


def manifest_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def write_engine(path: Path, plan: bytes, manifest: Manifest) -> None:
    """Writes engine and manifest; the manifest last, so that a stale pair shows by its digest."""
    manifest_path(path).unlink(missing_ok=True)
    write_atomically(path, plan)
    write_atomically(manifest_path(path), manifest.to_json())


def read_manifest(engine: Path) -> Manifest:
    """The manifest of an engine, which must be the one it was written with.

    Raises:
        DeployError: engine or manifest is missing, damaged, or of another build.
    """
    path = manifest_path(engine)
    if not engine.is_file():
        raise DeployError(
            f"There is no engine {engine}.", fix="deploykit build-engine makes one and names it"
        )
    if not path.is_file():
        raise DeployError(
            f"{engine} has no manifest {path.name} beside it.",
            fix="give an engine made by deploykit build-engine",
        )
    try:
        manifest = Manifest.from_json(path.read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise DeployError(f"{path} is no manifest, or was damaged.", fix="build the engine again") from error
    if sha256_of(engine) != manifest.engine_sha256:
        raise DeployError(
            f"{engine} is not the file its manifest describes: it was altered or cut short.",
            fix="copy both again, or build the engine again",
        )
    return manifest


def _tensor(fields: dict[str, Any]) -> Tensor:
    return Tensor(**{**fields, "shape": tuple(fields["shape"])})
