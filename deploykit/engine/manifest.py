"""The JSON beside every engine: what it is, what it was made from, where it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from deploykit.engine.audit.audit import Audit
from deploykit.engine.compilers import BuildOptions
from deploykit.engine.shapes import BatchRange, SideRange, format_batches, tightest_profile
from deploykit.engine.targets import Target
from deploykit.networks.model_info import ModelInfo
from deploykit.quantize.summary import Int8Summary
from deploykit.util.atomic_files import file_sha256, require_writable, write_all_atomically
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_sealed_json, to_sealed_json
from deploykit.util.types import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output; shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """What is known of an engine, in the file beside it.

    Attributes:
        engine_sha256: digest of the engine file.
        precision: what was asked for, and the audit confirmed.
        compiler_version: engines run on exactly the version that built them.
        batches: what batches it takes, an optimization profile each.
        side: what sides it takes, where that is not the input's own alone.
        output: what it answers; of several, the first.
        more_outputs: the others, the scores of the classes last.
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
    batches: Annotated[tuple[BatchRange, ...], Meta(min_length=1)]
    input: TensorSpec
    output: TensorSpec
    model: ModelInfo
    audit: Audit
    build_seconds: float
    deploykit_version: str
    options: BuildOptions = BuildOptions()  # noqa: RUF009  # frozen
    timing_cache_sha256: str | None = None
    side: SideRange | None = None
    int8: Int8Summary | None = None
    more_outputs: tuple[TensorSpec, ...] = ()
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        if len(self.input.shape) != 3 or not all(each.shape for each in self.outputs):
            raise ValueError("images have three dimensions, and answers one")

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """All of them, in the engine's order."""
        return (self.output, *self.more_outputs)

    @property
    def classes(self) -> int | None:
        """None where detections name them, and nothing says how many there are."""
        return self.outputs[-1].shape[-1] if self.model.nms is None else None

    @property
    def takes(self) -> str:
        """In words: `float32 (n, 3, side, side), n of 1 to 64, side of 224 to 380 px`."""
        shape = ("n", *self.input.shape)
        if self.side:
            shape = tuple("side" if size == self.side_px else size for size in shape)
        sizes = f"n of {format_batches(self.batches)}" + (f", side of {self.side}" if self.side else "")
        return f"{self.input.dtype} ({', '.join(map(str, shape))}), {sizes}"

    def profile_for(self, shape: tuple[int, ...], dtype: str = "float32") -> int:
        """Which profile a batch of this shape and type runs by: the tightest that holds it.

        Raises:
            DeployError: none does.
        """
        if dtype != self.input.dtype or not self._has_shape(shape):
            raise DeployError(
                f"The engine takes {self.takes}, not {dtype} {shape}.",
                code="input-shape-mismatch",
                fix="prepare the images with the manifest's preprocessing"
                if dtype != "uint8"
                else "prepare them with the manifest's preprocessing, or export the model with --preprocess",
            )
        profile = tightest_profile(self.batches, shape[0])
        if profile is None:
            raise DeployError(
                f"The engine takes batches of {format_batches(self.batches)} images, not {shape[0]}.",
                code="batch-out-of-range",
                fix="give such a --batch, or build with another one",
            )
        return profile

    @property
    def side_px(self) -> int:
        """The side it is tuned for; (3, side, side) and (side, side, 3) both have it in their middle."""
        return self.input.shape[1]

    def _has_shape(self, shape: tuple[int, ...]) -> bool:
        if self.side is None or len(shape) != 1 + len(self.input.shape):
            return shape[1:] == self.input.shape
        given = shape[2]
        expected = tuple(given if size == self.side_px else size for size in self.input.shape)
        return given in self.side and shape[1:] == expected


def is_bundle(path: Path) -> bool:
    """Whether a file is named as one, or is a ZIP archive, which engines and ONNX models are not."""
    if path.suffix == ".dkb" or not path.is_file():
        return path.suffix == ".dkb"
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def manifest_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def require_engine_writable(engine: Path, *, inputs: tuple[Path, ...] = ()) -> None:
    """Fails now rather than after a build, where engine and manifest can't be written or shouldn't be.

    Args:
        inputs: files that the build reads, and must not replace.

    Raises:
        DeployError: naming what is in the way.
    """
    manifest = manifest_path(engine)
    for path in (engine, manifest):
        require_writable(path, inputs=inputs)
    if manifest.exists() and not engine.exists():
        raise DeployError(
            f"{manifest}, where the manifest goes, is there, and no engine {engine} it could belong to.",
            code="manifest-would-be-replaced",
            fix="give another name with -o",
        )


def write_engine(path: Path, plan: bytes, manifest: EngineManifest) -> None:
    """Writes engine and manifest, both or neither; a mixed pair would show by its digest."""
    write_all_atomically({path: plan, manifest_path(path): to_sealed_json(manifest)})


def read_engine_manifest(engine: str | Path) -> EngineManifest:
    """The manifest of an engine, which must be the one it was written with.

    Raises:
        DeployError: engine or manifest is missing, was altered or damaged, or is of another build.
    """
    engine = Path(engine)
    if not engine.is_file():
        raise DeployError(
            f"There is no engine {engine}.",
            code="engine-not-found",
            fix="deploykit build-engine makes one and names it",
        )
    path = manifest_path(engine)
    if not path.is_file() and engine.is_symlink():
        path = manifest_path(engine.resolve())
    if is_bundle(engine):
        raise DeployError(
            f"{engine} is a bundle of several engines.",
            code="bundle-not-an-engine",
            fix=f"deploykit check {engine} lists them; Engine.load takes the one that runs",
        )
    if not path.is_file():
        raise DeployError(
            f"{engine} has no manifest {path.name} beside it.",
            code="manifest-not-found",
            fix="give an engine made by deploykit build-engine",
        )
    try:
        manifest = from_sealed_json(path.read_bytes(), EngineManifest)
        manifest.audit.require(manifest.precision, on_cpu=manifest.target.on_cpu)
        sha256 = file_sha256(engine)
    except OSError as error:
        raise DeployError(
            f"{error.filename} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="see its permissions",
        ) from error
    except (ValueError, DeployError) as error:
        raise DeployError(
            f"{path} is no manifest, or was damaged or altered.",
            code="manifest-damaged",
            fix="copy engine and manifest again, or build the engine again",
        ) from error
    if sha256 != manifest.engine_sha256:
        raise DeployError(
            f"{engine} is not the file its manifest describes: it was altered or cut short.",
            code="engine-damaged",
            fix="copy both again, or build the engine again",
        )
    return manifest
