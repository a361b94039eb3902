"""Check that a new version is compatible with the model that a repository already has."""

from collections.abc import Sequence
from pathlib import Path

from deploykit.serving.repository.config import (
    LABELS_FILE,
    PREPROCESSING_FILE,
    Config,
    backend_name,
    read_config,
)
from deploykit.serving.repository.config_diff import config_tensors, describe_tensors, engine_mismatches
from deploykit.serving.repository.folders import require_model_folder
from deploykit.serving.repository.model_folder import FileSource, ModelFolder, has_content, with_max_batch
from deploykit.serving.repository.model_versions import read_version
from deploykit.serving.repository.names import CONFIG_FILE, version_numbers
from deploykit.serving.repository.repair import combine_repairs, rewrite_steps
from deploykit.util.errors import DeployError

_CODE = "repository-version-mismatch"


def match_existing_models(folder: Path, models: Sequence[ModelFolder]) -> list[ModelFolder]:
    """Return models as they can be written beside what a repository already has.

    Args:
        models: The engine's model, then the models that lead to it. Each takes batches no larger than those
            before it are configured for in the repository.

    Raises:
        DeployError: A model is not compatible with the existing one.
    """
    matched: list[ModelFolder] = []
    problems: list[tuple[Path, DeployError]] = []
    max_batch = max(model.config.max_batch_size for model in models)
    for each in models:
        path, model = folder / each.name, with_max_batch(each, max_batch)
        try:
            require_compatible(path, model)
            existing = read_config(path / CONFIG_FILE) if path.exists() else model.config
        except DeployError as error:
            problems.append((path, error))
            continue
        max_batch = min(max_batch, existing.max_batch_size)
        matched.append(model)
    for first in combine_repairs(problems, models[0].config.backend):
        raise first
    return matched


def require_compatible(path: Path, model: ModelFolder) -> None:
    """Check that a new model keeps what the existing one promises its clients.

    Raises:
        DeployError: The path is not a model, or the new one differs in inputs, outputs, backend, batches,
            labels or preprocessing.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise DeployError(
            f"{path} is not a model's folder.", code="repository-folder-invalid", fix=_alternatives(path)
        )
    require_model_folder(path)
    existing = read_config(path / CONFIG_FILE)
    _require_valid(path, existing)
    for verb, old, new in (
        ("takes", existing.input, model.config.input),
        ("returns", existing.output, model.config.output),
    ):
        _require_same(
            verb, describe_tensors(config_tensors(old)), describe_tensors(config_tensors(new)), path
        )
    _require_same("is run by", _backend_and_files(existing), _backend_and_files(model.config), path)
    if PREPROCESSING_FILE not in model.version_files:  # a decoder takes batches of any size
        _require_batches(path, existing.max_batch_size, model.config)
    if (path / LABELS_FILE).exists() or model.model_files:
        _require_content(path, path / LABELS_FILE, model.model_files.get(LABELS_FILE, ""))
    if PREPROCESSING_FILE in model.version_files:
        for version in version_numbers(path)[-1:]:
            file = path / str(version) / PREPROCESSING_FILE
            _require_content(path, file, model.version_files[PREPROCESSING_FILE])


def _require_valid(path: Path, existing: Config) -> None:
    """Refuse a configuration that the existing engine does not keep either."""
    for version in version_numbers(path)[-1:]:
        for engine, manifest in read_version(path / str(version), existing).engines.items():
            for mismatch in engine_mismatches(existing, engine, manifest):
                raise DeployError(
                    f"{engine} {mismatch}", code="repository-engine-invalid", fix=rewrite_steps(path)
                )


def _require_batches(path: Path, existing: int, new: Config) -> None:
    if existing <= new.max_batch_size:
        return
    if new.ensemble_scheduling.step:
        what, fix = "ensemble", rewrite_steps(path)
    else:
        what, fix = "engine", f"build it with --batch 1,8,{existing}, or {_alternatives(path)}"
    raise DeployError(
        f"{path} takes batches of up to {existing}, but the new {what} only up to {new.max_batch_size}.",
        code=_CODE,
        fix=fix,
    )


def _require_same(verb: str, existing: str, new: str, path: Path) -> None:
    if existing != new:
        problem = f"{path} {verb} {existing}, but the new engine {verb} {new}."
        raise DeployError(problem, code=_CODE, fix=_alternatives(path))


def _require_content(path: Path, file: Path, source: FileSource) -> None:
    if not has_content(file, source):
        problem = "disagrees with the new engine's manifest" if file.is_file() else "is missing"
        raise DeployError(f"{file} {problem}.", code=_CODE, fix=_alternatives(path))


def _alternatives(path: Path) -> str:
    return f"give the new model another --name; or, to replace the existing one, {rewrite_steps(path)}"


def _backend_and_files(config: Config) -> str:
    by_capability = sorted(config.cc_model_filenames.items())
    files = ", ".join(f"{file} for {capability}" for capability, file in by_capability)
    named = " ".join(filter(None, [config.default_model_filename, files]))
    return f"{backend_name(config)}{f' ({named})' if named else ''}"
