"""One file for many machines: a model, and plans of it; what runs here is taken, or built once and kept.

A bundle is a ZIP archive, uncompressed, of `bundle.json`, `model.onnx` (FP32, or INT8 with Q/DQ) and
the plans that bundle.json names. Only names that it lists are read, and each file is held to its digest.
"""

import fcntl
import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from deploykit import __version__
from deploykit.engine.build import compile_engine, graph_for, require_own_side
from deploykit.engine.compilers import COMPILERS
from deploykit.engine.dynamic_side import require_sides
from deploykit.engine.manifest import Manifest, read_manifest, write_engine
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import CPU, Target, multiplies_matrices_alone, precision_for, target_for
from deploykit.engine.work import int8_products
from deploykit.errors import DeployError
from deploykit.files import require_writable, sha256_of, write_atomically
from deploykit.model_file import ModelInfo, Precision, info_of, read_model
from deploykit.runtime.preflight import Check, Machine, checks_of, this_machine
from deploykit.serial import from_sealed_json, to_sealed_json
from deploykit.workspace import cache_folder

_CONTENTS, _MODEL = "bundle.json", "model.onnx"
_LARGEST_CONTENTS = 64 * 2**20

_OTHER_CACHE = "make room there, or name another folder with XDG_CACHE_HOME"
_log = logging.getLogger(__name__)

Report = Callable[[str], None]
_Name = Annotated[str, Meta(pattern=r"^plans/[0-9]+\.engine$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledPlan:
    """Attributes: name: of its file in the archive."""

    name: _Name
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What bundle.json says.

    Attributes:
        model: what model.onnx says of itself.
        onnx_sha256: digest of model.onnx.
        fp32_sha256: digest of the FP32 model that it and all plans come from.
        precision: what to build where no plan runs; FP16 is FP32 on a CPU.
        batches, side: sizes to build for.
    """

    model: ModelInfo
    onnx_sha256: str
    fp32_sha256: str
    precision: Precision
    batches: Annotated[tuple[BatchRange, ...], Meta(min_length=1)]
    side: SideRange | None
    plans: tuple[BundledPlan, ...]
    deploykit_version: str
    format: Literal[1] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a bundle would do on a machine.

    Attributes:
        plans: each plan, and what it needs.
        chosen: the first that runs; None where one is built.
        target: what would be built; None where a plan runs.
        kept: that it has been built already.
        drawback: why there is nothing for the GPU of the machine; None where there is, or it has none.
    """

    plans: tuple[tuple[BundledPlan, tuple[Check, ...]], ...]
    chosen: BundledPlan | None
    target: Target | None
    kept: bool
    drawback: str | None = None


class Bundle:
    """An open bundle."""

    def __init__(self, path: Path) -> None:
        """Reads what is in it.

        Raises:
            DeployError: it is no bundle, or was altered or cut short.
        """
        self.path = path
        if not path.is_file():
            raise DeployError(f"There is no bundle {path}.", fix="deploykit bundle makes one")
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo(_CONTENTS).file_size > _LARGEST_CONTENTS:
                    raise ValueError("its list is too long")
                text = archive.read(_CONTENTS)
            self.contents = from_sealed_json(text, Contents)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DeployError(
                f"{path} is no bundle, or was damaged ({error}).", fix="copy it again, or bundle again"
            ) from error
        self._digest = hashlib.sha256(text).hexdigest()

    def prospect(self, machine: Machine | None = None, *, thorough: bool = True) -> Prospect:
        """What it would do on a machine, by default on this one.

        Args:
            thorough: hold every file to its digest, too, which reads the whole bundle.

        Raises:
            DeployError: the model in it was altered.
        """
        machine = machine or this_machine()
        plans = tuple(
            (plan, checks_of(plan.manifest, machine, sha256=self._sha256(plan) if thorough else None))
            for plan in self.contents.plans
        )
        running = [plan for plan, checks in plans if all(check.holds for check in checks)]
        running.sort(key=lambda plan: _preference(plan.manifest.target))
        if running and not running[0].manifest.target.on_cpu:
            return Prospect(plans=plans, chosen=running[0], target=None, kept=False)
        target, drawback = self._buildable(machine)
        if running and target.on_cpu:
            return Prospect(plans=plans, chosen=running[0], target=None, kept=False, drawback=drawback)
        kept = target.compiler in machine.runtimes and _is_sound(self._built_path(target, machine))
        if thorough and not kept:
            self._read(_MODEL, self.contents.onnx_sha256)
        return Prospect(plans=plans, chosen=None, target=target, kept=kept, drawback=drawback)

    def engine(self, *, progress: Report = lambda sentence: None) -> Path:
        """An engine that runs here: unpacked, or built; in the user's cache folder, for the next time too.

        Args:
            progress: told what is going on, where it takes long.

        Raises:
            DeployError: a file of it was altered, or nothing of it runs here and nothing can be built.
        """
        machine = this_machine()
        found = self.prospect(machine, thorough=False)
        if found.drawback is not None:
            _log.warning("note: %s runs on the CPU here: %s", self.path, found.drawback)
        if found.chosen is not None:
            return self._unpacked(found.chosen)
        assert found.target is not None  # noqa: S101  # one of the two
        compiler = found.target.compiler
        if compiler not in machine.runtimes:
            raise DeployError(
                f"No plan in {self.path} runs here, and {COMPILERS[compiler].title} is missing to build one.",
                fix=COMPILERS[compiler].install,
            )
        path = self._built_path(found.target, machine)
        if found.kept:  # the cache may be one that can't be written
            return path
        with self._locked():
            if not _is_sound(path):
                _log.warning(
                    "note: No plan in %s runs here: building one for %s.", self.path, found.target.title
                )
                data, manifest = self._build(found.target, progress)
                self._keep(path, data, manifest)
        return path

    def _unpacked(self, plan: BundledPlan) -> Path:
        path = self._folder / f"{plan.manifest.engine_sha256}.engine"
        if _is_sound(path):
            return path
        with self._locked():
            if not _is_sound(path):
                self._keep(path, self._read(plan.name, plan.manifest.engine_sha256), plan.manifest)
        return path

    def _keep(self, path: Path, plan: bytes, manifest: Manifest) -> None:
        try:
            write_engine(path, plan, manifest)
        except DeployError as error:
            raise DeployError(error.problem, fix=_OTHER_CACHE) from error

    def _build(self, target: Target, progress: Report) -> tuple[bytes, Manifest]:
        source = self._folder / _MODEL
        if not source.is_file() or sha256_of(source) != self.contents.onnx_sha256:
            write_atomically(source, self._read(_MODEL, self.contents.onnx_sha256))
        model = read_model(source)
        info = info_of(model)
        if info.precision == "fp32":
            info = info.derive(precision=self._precision(target), onnx_sha256=self.contents.fp32_sha256)
        return compile_engine(
            graph_for(target, model, info),
            info,
            target=target,
            planned_int8=int8_products(model, matrices_alone=multiplies_matrices_alone(target)),
            batches=self.contents.batches,
            side=self.contents.side,
            progress=progress,
        )

    def _buildable(self, machine: Machine) -> tuple[Target, str | None]:
        """What to build on a machine, and what keeps it from being for its GPU, and the way out."""
        if machine.gpu is None:
            return target_for(CPU), None
        try:
            target = target_for(None)
            self._precision(target)
        except DeployError as error:
            return target_for(CPU), str(error)
        if target.compiler in machine.runtimes:
            return target, None
        facts = COMPILERS[target.compiler]
        return target_for(CPU), f"{facts.title} is missing to build an engine: {facts.install}"

    def _precision(self, target: Target) -> Precision:
        """What to build: FP16 is FP32 on a CPU.

        Raises:
            DeployError: what is in it can't be had there.
        """
        asked = self.contents.precision
        return precision_for(target, None if target.on_cpu and asked == "fp16" else asked)

    def _sha256(self, plan: BundledPlan) -> str:
        try:
            self._read(plan.name, plan.manifest.engine_sha256)
        except DeployError:
            return "another, or unreadable"
        return plan.manifest.engine_sha256

    def _read(self, name: str, sha256: str) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                    raise ValueError("it is compressed, which bundles are not")
                data = archive.read(name)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DeployError(
                f"{name} in {self.path} can't be read ({error}).", fix="copy the bundle again"
            ) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DeployError(
                f"{name} in {self.path} is not the file it was bundled as.", fix="copy the bundle again"
            )
        return data

    def _built_path(self, target: Target, machine: Machine) -> Path:
        version = machine.runtimes[target.compiler]
        return self._folder / f"{target.compiler}-{version}.{target.label}.engine"

    @cached_property
    def _folder(self) -> Path:
        return cache_folder() / "bundles" / self._digest[:32]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes of this user."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / ".lock").open("w")
        except OSError as error:
            raise DeployError(
                f"The cache folder {self._folder} can't be written: {error.strerror}.",
                fix=_OTHER_CACHE,
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def write_bundle(
    model: str | Path,
    engines: Sequence[str | Path] = (),
    *,
    output: str | Path,
    precision: Precision | None = None,
    batches: Sequence[BatchRange] = (BatchRange(),),
    side: SideRange | None = None,
) -> Bundle:
    """Packs a model and plans of it into one file.

    Args:
        model: an exported FP32 model, or an INT8 one of deploykit quantize.
        engines: made from the same FP32 model; may be none.
        precision: what to build of an FP32 model where no plan runs; default FP16.
        batches, side: sizes to build for there.

    Raises:
        DeployError: bad input, or engines of another model; nothing is written.
    """
    model, output = Path(model), Path(output)
    require_writable(output, inputs=(model, *map(Path, engines)))
    graph = read_model(model)
    info = info_of(graph)
    if side is not None:
        require_own_side(info, side)
        require_sides(graph, side)
    data = model.read_bytes()
    onnx_sha256 = hashlib.sha256(data).hexdigest()
    if info.precision == "fp16" or (info.precision == "int8" and precision not in (None, "int8")):
        raise DeployError(
            f"{model} is {info.precision.upper()} already.",
            fix="give the FP32 model, or ask for no other precision",
        )
    if info.precision == "fp32" and precision == "int8":
        raise DeployError(
            f"{model} has no Q/DQ to build INT8 of.", fix="deploykit quantize makes a model that has"
        )
    fp32_sha256 = onnx_sha256 if info.precision == "fp32" else info.onnx_sha256
    if fp32_sha256 is None:
        raise DeployError(
            f"{model} does not say which FP32 model it was made from.", fix="quantize it with deploykit"
        )
    manifests = [(Path(engine), read_manifest(engine)) for engine in engines]
    for engine, manifest in manifests:
        if manifest.model.onnx_sha256 != fp32_sha256:
            raise DeployError(
                f"{engine} was made from another model than {model}.", fix="build it from this one"
            )
    contents = Contents(
        model=info,
        onnx_sha256=onnx_sha256,
        fp32_sha256=fp32_sha256,
        precision="int8" if info.precision == "int8" else precision or "fp16",
        batches=tuple(batches),
        side=side,
        plans=tuple(
            BundledPlan(name=f"plans/{at}.engine", manifest=manifest)
            for at, (_, manifest) in enumerate(manifests)
        ),
        deploykit_version=__version__,
    )
    files = {_CONTENTS: to_sealed_json(contents).encode(), _MODEL: data}
    for plan, (engine, _) in zip(contents.plans, manifests, strict=True):
        files[plan.name] = engine.read_bytes()
    write_atomically(output, _archive(files))
    return Bundle(output)


def _preference(target: Target) -> int:
    """What is taken before what: TensorRT's plans, ONNX Runtime on a GPU, and on the CPU, where all run."""
    return 2 if target.on_cpu else int(target.compiler == "onnxruntime")


def _archive(files: dict[str, bytes]) -> bytes:
    """Equal files give equal bytes."""
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _is_sound(engine: Path) -> bool:
    try:
        read_manifest(engine)
    except DeployError:
        return False
    return True
