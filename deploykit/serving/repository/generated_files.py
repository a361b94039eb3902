"""Find files of a repository that differ from what deploykit would write for its engines."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from deploykit.engine.manifest import EngineManifest
from deploykit.serving.repository.config import LABELS_FILE, Config
from deploykit.serving.repository.config_diff import config_mismatches
from deploykit.serving.repository.model_folder import (
    MODEL_PY,
    FileSource,
    ModelFolder,
    has_content,
    image_model_folders,
    label_files,
    model_py_files,
)
from deploykit.serving.repository.model_versions import ModelVersion, newest_manifest
from deploykit.serving.repository.names import DECODER_SUFFIX, IMAGE_SUFFIX, version_numbers
from deploykit.serving.repository.repair import rewrite_steps, version_repair, write_command
from deploykit.util.errors import DeployError


def engine_file_problems(
    path: Path, config: Config, versions: tuple[ModelVersion, ...]
) -> Iterator[DeployError]:
    """Yield problems with model.py and labels.txt of an engine's model."""
    program = model_py_files("python") if config.backend == "python" else {}
    for version in versions:
        if version.engines or version.broken:
            yield from _file_problems(version.folder, program, version_repair(version.folder))
    manifest = newest_manifest(versions)
    if manifest is not None:
        yield from _file_problems(path, label_files(manifest), rewrite_steps(path))


def image_model_problems(
    path: Path, manifest: EngineManifest, configs: Mapping[str, Config], engines: Collection[str]
) -> Iterator[tuple[str, DeployError]]:
    """Yield problems with the decoder and the ensemble around an engine's model, each with a model's name.

    Args:
        path: Folder of the engine's model.
        configs: Configurations of all models in the repository.
        engines: Names of the models that are engines.
    """
    names = [path.name + suffix for suffix in (DECODER_SUFFIX, IMAGE_SUFFIX)]
    if manifest.side or not any(each in configs and each not in engines for each in names):
        return
    models = image_model_folders(path.name, manifest, max_batch=configs[path.name].max_batch_size)
    for model in models:
        if model.name in configs and model.name not in engines:
            for error in _model_problems(path.with_name(model.name), model, configs[model.name]):
                yield model.name, error
    decoder, ensemble = (path.with_name(model.name) for model in models)
    if decoder.name in configs and not ensemble.is_dir() and not _is_step(decoder.name, configs):
        problem = f"{ensemble}, the ensemble of {decoder.name} and {path.name}, is missing."
        yield path.name, DeployError(problem, code="repository-altered", fix=write_command(path))


def _model_problems(path: Path, model: ModelFolder, config: Config) -> Iterator[DeployError]:
    yield from _file_problems(path, model.model_files, rewrite_steps(path))
    for version in version_numbers(path):
        folder = path / str(version)
        yield from _file_problems(folder, model.version_files, version_repair(folder))
    for mismatch in config_mismatches(config, model.config):
        yield DeployError(f"{path} {mismatch}", code="repository-altered", fix=rewrite_steps(path))


def _file_problems(folder: Path, files: Mapping[str, FileSource], fix: str) -> Iterator[DeployError]:
    for name, source in files.items():
        path = folder / name
        if path.exists() and not has_content(path, source):
            problem = f"{path} differs from what deploykit writes for its engine."
            yield DeployError(problem, code="repository-altered", fix=fix)
        elif not path.exists() and name not in (MODEL_PY, LABELS_FILE):  # reported with the configuration
            yield DeployError(f"{path} is missing.", code="repository-file-missing", fix=fix)


def _is_step(name: str, configs: Mapping[str, Config]) -> bool:
    """Return whether a model is a step of some ensemble."""
    steps = (step for config in configs.values() for step in config.ensemble_scheduling.step)
    return any(step.model_name == name for step in steps)
