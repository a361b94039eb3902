"""The JSON file beside every engine: what the engine is, what it was made from, and where it runs."""

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
    """An input or output of an engine; shape without the batch dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """Everything known about an engine, stored in a file beside it.

    Attributes:
        engine_sha256: Digest of the engine file.
        precision: As requested, and confirmed by the audit.
        compiler_version: An engine runs only with the version that built it.
        batches: Accepted batch sizes, one optimization profile each.
        side: Accepted image sides; None for only the input's own.
        output: The output, or the first of several.
        more_outputs: The other outputs; class scores come last.
        model: The model that was compiled. Its onnx_sha256 is the digest of the exported FP32 file.
        build_seconds: Wall-clock time of the compiler alone.
        options: Further compiler options.
        timing_cache_sha256: Digest of the timing cache that the build started from; None without one.
        int8: Which part of the model is in INT8; None for other precisions.
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
            raise ValueError("an input needs three dimensions, and an output at least one")

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """All outputs, in the engine's order."""
        return (self.output, *self.more_outputs)

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None if NMS outputs class indices, which do not tell their number."""
        return self.outputs[-1].shape[-1] if self.model.nms is None else None

    @property
    def input_summary(self) -> str:
        """The accepted input: `float32 (n, 3, side, side), n of 1 to 64, side of 224 to 380 px`."""
        shape = ("n", *self.input.shape)
        if self.side:
            shape = tuple("side" if size == self.side_px else size for size in shape)
        sizes = f"n of {format_batches(self.batches)}" + (f", side of {self.side}" if self.side else "")
        return f"{self.input.dtype} ({', '.join(map(str, shape))}), {sizes}"

    def profile_for(self, shape: tuple[int, ...], dtype: str = "float32") -> int:
        """Return the index of the tightest optimization profile that accepts a batch.

        Args:
            shape: Of the batch, including the batch dimension.
            dtype: Of the batch.

        Raises:
            DeployError: No profile accepts it.
        """
        if dtype != self.input.dtype or not self._accepts_shape(shape):
            raise DeployError(
                f"The engine accepts {self.input_summary}, not {dtype} {shape}.",
                code="input-shape-mismatch",
                fix="prepare the images with the manifest's preprocessing"
                if dtype != "uint8"
                else "prepare the images with the manifest's preprocessing, or export the model with "
                "--preprocess",
            )
        profile = tightest_profile(self.batches, shape[0])
        if profile is None:
            raise DeployError(
                f"The engine accepts batches of {format_batches(self.batches)} images, not {shape[0]}.",
                code="batch-out-of-range",
                fix="use an accepted batch size, or build with another --batch",
            )
        return profile

    @property
    def side_px(self) -> int:
        """The side that the engine is tuned for, pixels.

        It is in the middle of both layouts, (3, side, side) and (side, side, 3).
        """
        return self.input.shape[1]

    def _accepts_shape(self, shape: tuple[int, ...]) -> bool:
        if self.side is None or len(shape) != 1 + len(self.input.shape):
            return shape[1:] == self.input.shape
        given = shape[2]
        expected = tuple(given if size == self.side_px else size for size in self.input.shape)
        return given in self.side and shape[1:] == expected


def is_bundle(path: Path) -> bool:
    """Return whether a file is named like a bundle or is a ZIP archive.

    Engines and ONNX models are not ZIP archives.
    """
    if path.suffix == ".dkb" or not path.is_file():
        return path.suffix == ".dkb"
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def manifest_path(engine: Path) -> Path:
    """Return where the manifest of an engine file is."""
    return engine.with_name(engine.name + ".json")


def require_engine_writable(engine: Path, *, inputs: tuple[Path, ...] = ()) -> None:
    """Check before a build that the engine and its manifest can be written.

    Args:
        inputs: Files that the build reads and must not overwrite.

    Raises:
        DeployError: One of them can't be written, or a file that is in the way must not be replaced.
    """
    manifest = manifest_path(engine)
    for path in (engine, manifest):
        require_writable(path, inputs=inputs)
    if manifest.exists() and not engine.exists():
        raise DeployError(
            f"The manifest would replace {manifest}, which does not belong to an engine.",
            code="manifest-would-be-replaced",
            fix="give another name with -o",
        )


def write_engine(path: Path, plan: bytes, manifest: EngineManifest) -> None:
    """Write an engine and its manifest, both or neither; the digest would reveal a mixed pair."""
    write_all_atomically({path: plan, manifest_path(path): to_sealed_json(manifest)})


def read_engine_manifest(engine: str | Path) -> EngineManifest:
    """Return the manifest of an engine file, after checking that the two belong together.

    Raises:
        DeployError: The engine or its manifest is missing, or was modified, damaged or swapped.
    """
    engine = Path(engine)
    if not engine.is_file():
        raise DeployError(
            f"Engine {engine} does not exist.",
            code="engine-not-found",
            fix="deploykit build-engine",
        )
    path = manifest_path(engine)
    if not path.is_file() and engine.is_symlink():
        path = manifest_path(engine.resolve())
    if is_bundle(engine):
        raise DeployError(
            f"{engine} is a bundle of several engines, not an engine.",
            code="bundle-not-an-engine",
            fix=f"deploykit check {engine} lists its engines; Engine.load picks the one that runs here",
        )
    if not path.is_file():
        raise DeployError(
            f"{engine} has no manifest {path.name} beside it.",
            code="manifest-not-found",
            fix="give an engine that deploykit build-engine wrote, and keep its manifest beside it",
        )
    try:
        manifest = from_sealed_json(path.read_bytes(), EngineManifest)
        manifest.audit.require_precision(manifest.precision, on_cpu=manifest.target.on_cpu)
        sha256 = file_sha256(engine)
    except OSError as error:
        raise DeployError(
            f"{error.filename} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="check its permissions",
        ) from error
    except (ValueError, DeployError) as error:
        raise DeployError(
            f"{path} is not an engine manifest, or was damaged or modified.",
            code="manifest-damaged",
            fix="copy the engine and its manifest again, or build the engine again",
        ) from error
    if sha256 != manifest.engine_sha256:
        raise DeployError(
            f"{engine} does not match its manifest: the file was modified or is incomplete.",
            code="engine-damaged",
            fix="copy the engine and its manifest again, or build the engine again",
        )
    return manifest
