"""Texts of a repository that are not as they would be written for its engines now."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from deploykit.engine.manifest import EngineManifest
from deploykit.serving.repository.config import LABELS_FILE, Config
from deploykit.serving.repository.config_diff import differs_around
from deploykit.serving.repository.inventory import Version
from deploykit.serving.repository.layout import (
    MODEL_FILE,
    ModelFolder,
    Source,
    engine_program,
    image_folders,
    is_written,
    labels_file,
)
from deploykit.serving.repository.names import DECODER_SUFFIX, IMAGE_SUFFIX, versions_in
from deploykit.serving.repository.repair import do_without, write_anew, write_missing
from deploykit.util.errors import DeployError


def altered_engine(path: Path, config: Config, versions: Collection[Version]) -> Iterator[DeployError]:
    """In the folder of an engine's model."""
    program = engine_program("python") if config.backend == "python" else {}
    for version in versions:
        if version.engines or version.broken:
            yield from _altered(version.folder, program, do_without(version.folder))
    manifest = newest_manifest(versions)
    if manifest is not None:
        yield from _altered(path, labels_file(manifest), write_anew(path))


def altered_around(
    path: Path, manifest: EngineManifest, configs: Mapping[str, Config], engines: Collection[str]
) -> Iterator[tuple[str, DeployError]]:
    """In the decoder and the ensemble around an engine's model, where there are any: whose, and what.

    Args:
        configs: of the repository's models.
        engines: names of those that are engines themselves.
    """
    there = [path.name + suffix for suffix in (DECODER_SUFFIX, IMAGE_SUFFIX)]
    if manifest.side or not any(each in configs and each not in engines for each in there):
        return
    around = image_folders(path.name, manifest, max_batch=configs[path.name].max_batch_size)
    for model in around:
        if model.name in configs and model.name not in engines:
            for error in _altered_model(path.with_name(model.name), model, configs[model.name]):
                yield model.name, error
    decoder, ensemble = (path.with_name(model.name) for model in around)
    if decoder.name in configs and not ensemble.is_dir() and not _is_a_step(decoder.name, configs):
        problem = f"{ensemble}, which leads from {decoder.name} to {path.name}, is not there."
        yield path.name, DeployError(problem, code="repository-altered", fix=write_missing(path))


def newest_manifest(versions: Collection[Version]) -> EngineManifest | None:
    """Of the newest version that has an engine; several engines of one are of the same model."""
    manifests = [manifest for version in versions for manifest in version.engines.values()]
    return manifests[-1] if manifests else None


def _altered_model(path: Path, model: ModelFolder, config: Config) -> Iterator[DeployError]:
    yield from _altered(path, model.beside, write_anew(path))
    for version in versions_in(path):
        folder = path / str(version)
        yield from _altered(folder, model.version, do_without(folder))
    for each in differs_around(config, model.config):
        yield DeployError(f"{path} {each}", code="repository-altered", fix=write_anew(path))


def _altered(folder: Path, files: Mapping[str, Source], fix: str) -> Iterator[DeployError]:
    for name, source in files.items():
        path = folder / name
        if path.exists() and not is_written(path, source):
            yield DeployError(
                f"{path} is not what deploykit writes for its engine.", code="repository-altered", fix=fix
            )
        elif not path.exists() and name not in (MODEL_FILE, LABELS_FILE):  # those a configuration names
            yield DeployError(f"{path} is not there.", code="repository-file-missing", fix=fix)


def _is_a_step(name: str, configs: Mapping[str, Config]) -> bool:
    steps = (step for config in configs.values() for step in config.ensemble_scheduling.step)
    return any(step.model_name == name for step in steps)
