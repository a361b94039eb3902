"""Writes engines into a Triton model repository: a model appears whole, and so does a new version of one."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deploykit.bench.scenarios import run_single_stream
from deploykit.engine.manifest import EngineManifest, is_bundle, read_engine_manifest
from deploykit.networks.artifact_paths import model_name
from deploykit.runtime import Engine
from deploykit.runtime.preflight import preflight
from deploykit.serving.repository.batching import batching_of
from deploykit.serving.repository.config import Backend
from deploykit.serving.repository.folders import folders_in, repository_at, require_model
from deploykit.serving.repository.layout import ModelFolder, backend_for, engine_folder, image_folders
from deploykit.serving.repository.names import require_name
from deploykit.serving.repository.placing import make_repository, put_models
from deploykit.serving.repository.tensors import answers_of
from deploykit.serving.repository.version_fit import fitted
from deploykit.util.atomic_files import lock_folder
from deploykit.util.errors import DeployError

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
        DeployError: an engine is damaged, fails, or doesn't fit the model there; the folder holds others than
            models. Nothing changes then.
    """
    folder = repository_at(folder)
    groups = by_model([Path(each) for each in engines], options)
    staged = [_planned(folder, name, group, options, note) for name, group in groups.items()]
    make_repository(folder)
    with lock_folder(folder):
        names = {model.name for _, models in staged for model in models}
        for each in folders_in(folder):
            if each.name not in names:
                require_model(each)
        fitting = [fitted(folder, models) for _, models in staged]
        versions = [put_models(folder, models, note) for models in fitting]
    return tuple(
        replace(written, version=version, path=written.path / str(version))
        for version, (written, _) in zip(versions, staged, strict=True)
    )


def _planned(
    folder: Path, name: str, group: dict[Path, EngineManifest], options: Options, note: Callable[[str], None]
) -> tuple[Written, list[ModelFolder]]:
    """What a model's engines become, once those that run here have answered."""
    first, *_ = group.values()
    timed = [_proven(path, note) for path in group]
    batch_ms = next((each for each in timed if each is not None), None)
    batching = batching_of(
        first,
        max_latency_ms=options.max_latency_ms,
        batch_ms=batch_ms,
        max_queue=options.max_queue,
        dynamic=options.batching,
    )
    if options.max_latency_ms is not None:
        _note_latency(name, first, options.max_latency_ms, batch_ms, note)
    backend = backend_for(list(group.values()), options.backend)
    engine = engine_folder(
        name,
        group,
        backend=backend,
        batching=batching,
        instances=options.instances,
        threads=options.threads,
    )
    around: tuple[ModelFolder, ...] = ()
    if options.images and first.side:
        note(f"{name} takes images of {first.side}: send them prepared, as its manifest says.")
    elif options.images:
        around = image_folders(name, first, max_batch=batching.max_batch)
    written = Written(
        name=name,
        version=0,
        path=folder / name,
        backend=backend,
        image_model=around[-1].name if around else None,
    )
    return written, [engine, *around]


def _note_latency(
    name: str,
    manifest: EngineManifest,
    max_latency_ms: float,
    batch_ms: Callable[[int], float] | None,
    note: Callable[[str], None],
) -> None:
    if batch_ms is None:
        note(f"{name} can't be timed here: images wait for others a quarter of --max-latency.")
        return
    least = min(each.min for each in manifest.batches)
    if (took_ms := batch_ms(least)) > max_latency_ms:
        took = f"{name} takes {took_ms:.3g} ms here for a batch of {least}"
        note(f"{took}: a latency of {max_latency_ms:g} ms can't be held.")


def by_model(engines: Sequence[Path], options: Options) -> dict[str, dict[Path, EngineManifest]]:
    """Engines by the name of their model.

    Raises:
        DeployError: none is named; one is missing, damaged, without its manifest, or of another model.
    """
    if not engines:
        raise DeployError(
            "No engine was named.", code="engine-missing", fix="deploykit serve ENGINE, or with --triton DIR"
        )
    groups: dict[str, dict[Path, EngineManifest]] = {}
    for given in engines:
        path = given
        if is_bundle(given):
            from deploykit.runtime.bundle.bundle import Bundle

            path = Bundle(given).prepare_engine()
        manifest = read_engine_manifest(path)
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
                    code="model-name-conflict",
                    fix="for each, deploykit serve --triton DIR ENGINE --name NAME, then deploykit serve DIR",
                )
    return groups


def _identity(manifest: EngineManifest) -> tuple[object, ...]:
    """What engines have in common that are one model for several GPUs."""
    return (
        manifest.model.onnx_sha256,
        manifest.target.compiler,
        manifest.target.on_cpu,
        manifest.precision,
        manifest.batches,
        manifest.side,
        manifest.input,
        manifest.outputs,
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
    if not all(np.isfinite(each).all() for each in answers_of(answer)):
        raise DeployError(
            f"{path} answers with NaN or Inf.",
            code="outputs-not-finite",
            fix="build it again from sound weights",
        )

    def batch_ms(batch: int) -> float:
        images = np.zeros((batch, *manifest.input.shape), manifest.input.dtype)
        with Engine.load(path) as timed:
            samples = run_single_stream(
                lambda: timed(images), batch=batch, seconds=_TIMED_SECONDS, samples=_TIMED_CALLS
            )
        return statistics.median(samples.latency_ms)

    return batch_ms
