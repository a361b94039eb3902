"""Write engines into a Triton model repository, as new models or as new versions of existing ones."""

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
from deploykit.serving.repository.atomic_install import create_repository, install_models
from deploykit.serving.repository.batching import choose_batching
from deploykit.serving.repository.folders import repository_path, require_model_folder, subfolders
from deploykit.serving.repository.model_folder import (
    ModelFolder,
    choose_backend,
    engine_model_folder,
    image_model_folders,
)
from deploykit.serving.repository.names import require_model_name
from deploykit.serving.repository.options import Backend, ModelOptions
from deploykit.serving.repository.tensors import output_arrays
from deploykit.serving.repository.version_compatibility import match_existing_models
from deploykit.util.atomic_files import lock_folder
from deploykit.util.errors import DeployError

_TIMED_SECONDS, _TIMED_CALLS = 0.2, 5
_DEFAULTS = ModelOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenModel:
    """A version that was written into a repository.

    Attributes:
        name: Name of the model.
        version: Its version.
        path: The version's folder.
        backend: Triton backend that runs it.
        image_model: Name of the model that takes encoded images for it; None if there is none.
    """

    name: str
    version: int
    path: Path
    backend: Backend
    image_model: str | None


def write_repository(
    folder: str | Path,
    engines: Sequence[str | Path],
    options: ModelOptions = _DEFAULTS,
    *,
    note: Callable[[str], None] = lambda sentence: None,
) -> tuple[WrittenModel, ...]:
    """Write engines into a Triton model repository, which may be in service meanwhile.

    An existing model gets a new version. Engines of one model for several GPUs become one version. Engines
    that run on this machine are tested first. Nothing is written if any of them is refused.

    Args:
        folder: The repository, created if it does not exist.
        engines: Engine files or bundles.
        options: How to serve them.
        note: Receives a sentence for each thing that the user should know.

    Raises:
        DeployError: An engine is damaged, fails, or is not compatible with the existing model; or the folder
            holds something other than models.
    """
    folder = repository_path(folder)
    groups = group_by_model([Path(each) for each in engines], options)
    staged = [_stage_model(folder, name, group, options, note) for name, group in groups.items()]
    create_repository(folder)
    with lock_folder(folder):
        names = {model.name for _, models in staged for model in models}
        for each in subfolders(folder):
            if each.name not in names:
                require_model_folder(each)
        matched = [match_existing_models(folder, models) for _, models in staged]
        versions = [install_models(folder, models, note) for models in matched]
    return tuple(
        replace(written, version=version, path=written.path / str(version))
        for version, (written, _) in zip(versions, staged, strict=True)
    )


def _stage_model(
    folder: Path,
    name: str,
    engines: dict[Path, EngineManifest],
    options: ModelOptions,
    note: Callable[[str], None],
) -> tuple[WrittenModel, list[ModelFolder]]:
    """Test a model's engines, and return the folders to write for them."""
    first, *_ = engines.values()
    timers = [_tested_timer(path, note) for path in engines]
    batch_ms = next((each for each in timers if each is not None), None)
    batching = choose_batching(
        first,
        max_latency_ms=options.max_latency_ms,
        batch_ms=batch_ms,
        max_queue=options.max_queue,
        dynamic=options.batching,
    )
    if options.max_latency_ms is not None:
        _note_latency(name, first, options.max_latency_ms, batch_ms, note)
    backend = choose_backend(list(engines.values()), options.backend)
    engine = engine_model_folder(
        name,
        engines,
        backend=backend,
        batching=batching,
        instances=options.instances,
        threads=options.threads,
    )
    image_models: tuple[ModelFolder, ...] = ()
    if options.images and first.side:
        note(f"{name} takes images of {first.side}, so it gets no decoder: send preprocessed images.")
    elif options.images:
        image_models = image_model_folders(name, first, max_batch=batching.max_batch)
    written = WrittenModel(
        name=name,
        version=0,
        path=folder / name,
        backend=backend,
        image_model=image_models[-1].name if image_models else None,
    )
    return written, [engine, *image_models]


def _note_latency(
    name: str,
    manifest: EngineManifest,
    max_latency_ms: float,
    batch_ms: Callable[[int], float] | None,
    note: Callable[[str], None],
) -> None:
    if batch_ms is None:
        note(f"{name} can't be timed here, so images wait up to a quarter of --max-latency for others.")
        return
    smallest = min(each.min for each in manifest.batches)
    if (took_ms := batch_ms(smallest)) > max_latency_ms:
        took = f"A batch of {smallest} takes {name} {took_ms:.3g} ms here"
        note(f"{took}, so it can't meet a latency of {max_latency_ms:g} ms.")


def group_by_model(engines: Sequence[Path], options: ModelOptions) -> dict[str, dict[Path, EngineManifest]]:
    """Return engines, with their manifests, by the name of their model.

    Raises:
        DeployError: No engine is given; one is missing, damaged or without a manifest; or engines of
            different models would share a name.
    """
    if not engines:
        raise DeployError(
            "No engine was given.",
            code="engine-missing",
            fix="deploykit serve ENGINE, or deploykit serve --triton DIR ENGINE",
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
        groups.setdefault(require_model_name(name), {})[path] = manifest
    for name, group in groups.items():
        first, *others = group.values()
        for other in others:
            if _model_identity(other) != _model_identity(first):
                raise DeployError(
                    f"These engines would all be named {name}, but differ in model, compiler or size: "
                    f"{', '.join(map(str, group))}.",
                    code="model-name-conflict",
                    fix="write each with deploykit serve --triton DIR ENGINE --name NAME, "
                    "then deploykit serve DIR",
                )
    return groups


def _model_identity(manifest: EngineManifest) -> tuple[object, ...]:
    """Return what engines of one model for several GPUs have in common."""
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


def _tested_timer(path: Path, note: Callable[[str], None]) -> Callable[[int], float] | None:
    """Run an engine once, and return a function that times its batches; None if it does not run here.

    Raises:
        DeployError: It fails.
    """
    checked = preflight(path)
    if not checked.runs:
        note(f"{path} does not run on this machine, so only its checksum was verified.")
        return None
    manifest = checked.manifest
    size = min(each.min for each in manifest.batches)
    with Engine.load(path) as engine:
        outputs = engine(np.zeros((size, *manifest.input.shape), manifest.input.dtype))
    if not all(np.isfinite(each).all() for each in output_arrays(outputs)):
        raise DeployError(
            f"{path} returns NaN or Inf for an image of zeros.",
            code="outputs-not-finite",
            fix="check the weights, then build the engine again",
        )

    def batch_ms(batch: int) -> float:
        images = np.zeros((batch, *manifest.input.shape), manifest.input.dtype)
        with Engine.load(path) as timed:
            samples = run_single_stream(
                lambda: timed(images), batch=batch, seconds=_TIMED_SECONDS, samples=_TIMED_CALLS
            )
        return statistics.median(samples.latency_ms)

    return batch_ms
