"""Writes engines into a Triton model repository: a model appears whole, and so does a new version of one."""

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploykit.bench.scenarios import single_stream
from deploykit.engine.manifest import Manifest, is_bundle, read_manifest
from deploykit.errors import DeployError
from deploykit.files import alone_in
from deploykit.runtime import Engine
from deploykit.runtime.preflight import preflight
from deploykit.serving.batching import batching_of
from deploykit.serving.config import CONFIG_FILE, Backend, read_config, to_text
from deploykit.serving.fitting import require_fits
from deploykit.serving.layout import ModelFolder, Source, backend_for, engine_folder, image_folders
from deploykit.serving.names import require_name, versions_in
from deploykit.workspace import model_name

_TIMED_SECONDS, _TIMED_CALLS = 0.2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A version that was put into a repository.

    Attributes:
        image_model: what takes encoded images for it; None where nothing does.
    """

    name: str
    version: int
    path: Path
    backend: Backend
    image_model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How models are to be served.

    Attributes:
        name: of the model; None for one by its family and scale.
        backend: None for the engine's own.
        max_latency_ms: to hold from arrival to answer; None to wait for no other requests.
        max_queue: requests that may wait for a model; None for any number.
        batching: whether requests are put together.
        instances: how many of an engine run at the same time, a GPU.
        threads: of an instance on the CPU.
        images: whether encoded images are taken too, by a decoder and an ensemble around the engine.
    """

    name: str | None = None
    backend: Backend | None = None
    max_latency_ms: float | None = None
    max_queue: int | None = None
    batching: bool = True
    instances: int = 1
    threads: int | None = None
    images: bool = True


def write_repository(
    folder: str | Path,
    engines: Sequence[str | Path],
    options: Options = Options(),
    *,
    note: Callable[[str], None] = lambda sentence: None,
) -> tuple[Written, ...]:
    """Puts engines into a Triton model repository, which may be served meanwhile.

    A model that is there gets a new version. Engines of one model for several GPUs become one version. An
    engine that runs here is run first.

    Args:
        note: told what the user should know.

    Raises:
        DeployError: an engine is damaged, fails, or doesn't fit the model there; nothing changes then.
    """
    folder = Path(folder)
    groups = _by_model([Path(each) for each in engines], options)
    staged: list[tuple[Written, list[ModelFolder]]] = []
    for name, group in groups.items():
        first, *_ = group.values()
        timed = {path: _proven(path, note) for path in group}
        batch_ms = next((each for each in timed.values() if each is not None), None)
        if batch_ms is None and options.max_latency_ms is not None:
            note(f"{name} can't be timed here: images wait for others a quarter of --max-latency.")
        batching = batching_of(
            first,
            max_latency_ms=options.max_latency_ms,
            batch_ms=batch_ms,
            max_queue=options.max_queue,
            dynamic=options.batching,
        )
        backend = backend_for(list(group.values()), options.backend)
        models = [
            engine_folder(
                name,
                group,
                backend=backend,
                batching=batching,
                instances=options.instances,
                threads=options.threads,
            )
        ]
        if options.images and not first.side:
            models += image_folders(name, first, max_batch=batching.max_batch)
        elif options.images:
            note(f"{name} takes images of any side: send them prepared, as its manifest says.")
        image_model = models[-1].name if len(models) > 1 else None
        written = Written(name=name, version=0, path=folder / name, backend=backend, image_model=image_model)
        staged.append((written, models))
    _make(folder)
    with alone_in(folder):
        for _, models in staged:
            for model in models:
                require_fits(folder / model.name, model)
        return tuple(_put(folder, written, models, note) for written, models in staged)


def _by_model(engines: Sequence[Path], options: Options) -> dict[str, dict[Path, Manifest]]:
    """Engines by the name of their model."""
    if not engines:
        raise DeployError("No engine was named.", fix="deploykit serve --triton DIR ENGINE")
    groups: dict[str, dict[Path, Manifest]] = {}
    for given in engines:
        path = given
        if is_bundle(given):
            from deploykit.runtime.bundle import Bundle

            path = Bundle(given).engine()
        manifest = read_manifest(path)
        info = manifest.model
        own_name = model_name(info.family, info.phi, info.rule, info.scale)
        name = own_name if options.name is None else options.name
        groups.setdefault(require_name(name), {})[path] = manifest
    for name, group in groups.items():
        first, *others = group.values()
        for other in others:
            if _identity(other) != _identity(first):
                raise DeployError(
                    f"Two engines would be {name}, and are not of one model, compiler and size: "
                    f"{', '.join(map(str, group))}.",
                    fix="put them in one after the other, each with a --name of its own",
                )
    return groups


def _identity(manifest: Manifest) -> tuple[object, ...]:
    """What engines have in common that are one model for several GPUs."""
    return (
        manifest.model.onnx_sha256,
        manifest.target.compiler,
        manifest.target.on_cpu,
        manifest.precision,
        manifest.batches,
        manifest.side,
        manifest.input,
        manifest.output,
    )


def _proven(path: Path, note: Callable[[str], None]) -> Callable[[int], float] | None:
    """What times batches of an engine, once it has answered one; None where it does not run here.

    Raises:
        DeployError: it fails.
    """
    checked = preflight(path)
    if not checked.runs:
        note(f"{path} does not run here, so it was checked by its digest alone.")
        return None
    manifest = checked.manifest
    size = min(each.min for each in manifest.batches)
    with Engine.load(path) as engine:
        answer = engine(np.zeros((size, *manifest.input.shape), manifest.input.dtype))
    if not np.isfinite(answer).all():
        raise DeployError(f"{path} answers with NaN or Inf.", fix="build it again from sound weights")

    def batch_ms(batch: int) -> float:
        images = np.zeros((batch, *manifest.input.shape), manifest.input.dtype)
        with Engine.load(path) as timed:
            samples = single_stream(
                lambda: timed(images), batch=batch, seconds=_TIMED_SECONDS, samples=_TIMED_CALLS
            )
        return statistics.median(samples.latency_ms)

    return batch_ms


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeployError(
            f"{folder} can't be a model repository: {error.strerror}.", fix="name another folder"
        ) from error


def _put(
    folder: Path, written: Written, models: Sequence[ModelFolder], note: Callable[[str], None]
) -> Written:
    """The engine first, what leads to it last: a server that looks meanwhile finds all it needs."""
    engine, *around = models
    version = _put_engine(folder, engine, note)
    for model in around:
        if not (folder / model.name).exists():
            _put_new(folder, model)
    return Written(
        name=written.name,
        version=version,
        path=written.path / str(version),
        backend=written.backend,
        image_model=written.image_model,
    )


def _put_engine(folder: Path, model: ModelFolder, note: Callable[[str], None]) -> int:
    path = folder / model.name
    if not path.exists():
        _put_new(folder, model)
        return 1
    if to_text(read_config(path / CONFIG_FILE)) != to_text(model.config):
        note(f"{path / CONFIG_FILE} stays as it is; remove {path} first to have it written anew.")
    version = max(versions_in(path), default=0) + 1
    with _staging(path) as staging:  # Triton passes over folders that are no numbers
        _fill(staging / "new", model.version)
        (staging / "new").rename(path / str(version))
    return version


def _put_new(folder: Path, model: ModelFolder) -> None:
    """Made beside the repository, where a server that looks meanwhile would take it for a model."""
    with _staging(folder.absolute().parent) as staging:
        _fill(staging / "new", {CONFIG_FILE: to_text(model.config), **model.beside})
        _fill(staging / "new" / "1", model.version)
        try:
            (staging / "new").rename(folder / model.name)
        except OSError as error:
            raise DeployError(
                f"{folder / model.name} can't be put there in one step: {error.strerror}.",
                fix="name a folder inside of that file system for the repository",
            ) from error


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=".deploykit-", dir=parent))
    except OSError as error:
        raise DeployError(
            f"{parent} can't be written: {error.strerror}.", fix="name a folder that can be written"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, Source]) -> None:
    """Raises: DeployError: the disk is full, or a file has gone."""
    try:
        folder.mkdir()
        folder.chmod(0o755)
        for name, source in files.items():
            target = folder / name
            if isinstance(source, Path):
                shutil.copyfile(source, target)
            else:
                target.write_text(source)
            _flush(target)
    except OSError as error:
        raise DeployError(
            f"{folder.name} can't be written: {error.strerror} ({error.filename}).",
            fix="make room there, or name another folder",
        ) from error


def _flush(path: Path) -> None:
    """Onto the disk: what is renamed after shall be whole after a power cut too."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
