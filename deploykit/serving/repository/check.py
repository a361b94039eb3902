"""Check whether a Triton model repository agrees with the engines in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploykit.engine.manifest import manifest_path
from deploykit.serving.repository.config import Config, read_config
from deploykit.serving.repository.config_diff import engine_mismatches
from deploykit.serving.repository.folders import (
    is_model_folder,
    repository_path,
    require_model_folder,
    subfolders,
)
from deploykit.serving.repository.generated_files import engine_file_problems, image_model_problems
from deploykit.serving.repository.model_folder import loaded_files
from deploykit.serving.repository.model_versions import ModelVersion, newest_manifest, read_versions
from deploykit.serving.repository.names import (
    CONFIG_FILE,
    NAME_RULES,
    is_inside,
    is_model_name,
    version_numbers,
)
from deploykit.serving.repository.repair import combine_repairs, rewrite_steps, version_repair
from deploykit.util.errors import DeployError

_WRITE = "deploykit serve --triton DIR ENGINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A problem with a model, a stable code for it, and how to fix it."""

    model: str
    problem: str
    code: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedModel:
    """A model that was checked.

    Attributes:
        name: Name of the model.
        kind: Its backend or platform.
        versions: Its versions, ascending.
        engines: How many engines were compared with their manifests.
        runs_here: How many of these run on this machine.
    """

    name: str
    kind: str
    versions: tuple[int, ...]
    engines: int
    runs_here: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRepository:
    """A repository that was checked: its models, and what is wrong with them."""

    models: tuple[CheckedModel, ...]
    findings: tuple[Finding, ...]


def check_repository(folder: str | Path) -> CheckedRepository:
    """Compare models with the manifests of their engines: configurations, engines and generated files.

    Raises:
        DeployError: The folder is not a model repository.
    """
    folder = repository_path(folder)
    paths = _model_paths(folder)
    configs: dict[str, Config] = {}
    problems: list[tuple[str, DeployError]] = []
    for path in paths:
        try:
            require_model_folder(path)
            _require_valid_name(path)
            configs[path.name] = read_config(path / CONFIG_FILE)
        except DeployError as error:
            problems.append((path.name, error))
    versions = {name: read_versions(folder / name, config) for name, config in configs.items()}
    manifests = {name: each for name, own in versions.items() if (each := newest_manifest(own)) is not None}
    for name, config in configs.items():
        problems += [(name, each) for each in _model_problems(folder / name, config, versions[name])]
    for name, manifest in manifests.items():
        problems += image_model_problems(folder / name, manifest, configs, manifests)
    faulty = {name for name, _ in problems}
    for name, config in configs.items():
        problems += [(name, each) for each in _step_problems(folder / name, config, configs, faulty)]
    repaired = combine_repairs([(folder / name, each) for name, each in problems])
    return CheckedRepository(
        models=tuple(_checked_model(name, config, versions[name]) for name, config in configs.items()),
        findings=tuple(
            Finding(model=name, problem=each.problem, code=each.code, fix=each.fix)
            for (name, _), each in zip(problems, repaired, strict=True)
        ),
    )


def _model_paths(folder: Path) -> list[Path]:
    """Return the folders of a repository.

    Raises:
        DeployError: There is no such folder, or none of its folders is a model.
    """
    if not folder.is_dir():
        raise DeployError(
            f"{folder} is not a folder.", code="file-not-found", fix=f"write a repository with {_WRITE}"
        )
    paths = subfolders(folder)
    if not paths:
        raise DeployError(
            f"{folder} holds no models.", code="repository-empty", fix=f"write some with {_WRITE}"
        )
    if not any(map(is_model_folder, paths)):
        raise DeployError(
            f"{folder} is not a model repository: none of its folders has a {CONFIG_FILE}.",
            code="repository-empty",
            fix=f"give the folder that holds the models' folders, or write a new one with {_WRITE}",
        )
    return paths


def _require_valid_name(path: Path) -> None:
    if not is_model_name(path.name):
        raise DeployError(
            f"{path.name!r} is not a valid model name.",
            code="invalid-model-name",
            fix=f"rename {path}, in its {CONFIG_FILE} and in ensembles that use it too: {NAME_RULES}",
        )


def _checked_model(name: str, config: Config, versions: tuple[ModelVersion, ...]) -> CheckedModel:
    return CheckedModel(
        name=name,
        kind=config.platform or config.backend,
        versions=tuple(int(each.folder.name) for each in versions),
        engines=sum(len(each.engines) for each in versions),
        runs_here=sum(each.runs_here for each in versions),
    )


def _model_problems(path: Path, config: Config, versions: tuple[ModelVersion, ...]) -> Iterator[DeployError]:
    """Yield the problems of a model that show without looking at others."""
    yield from _name_problems(path, config)
    yield from _outside_problems(path, config)
    yield from _label_problems(path, config)
    if not versions:
        problem = f"{path} has no version."
        yield DeployError(problem, code="repository-version-missing", fix=rewrite_steps(path))
    for version in versions:
        yield from version.broken
        for engine, manifest in version.engines.items():
            for mismatch in engine_mismatches(config, engine, manifest):
                problem = f"{engine} {mismatch}"
                yield DeployError(problem, code="repository-engine-invalid", fix=rewrite_steps(path))
        yield from _missing_file_problems(version.folder, config)
    yield from engine_file_problems(path, config, versions)


def _name_problems(path: Path, config: Config) -> Iterator[DeployError]:
    if config.name not in ("", path.name):
        yield DeployError(
            f"{path / CONFIG_FILE} names the model {config.name!r}, its folder {path.name!r}.",
            code="repository-config-mismatch",
            fix=f"rename the folder to {config.name}, or {rewrite_steps(path)}",
        )


def _outside_problems(path: Path, config: Config) -> Iterator[DeployError]:
    """Yield files in the configuration, and links, that leave the model's folder."""
    named = [config.default_model_filename, *config.cc_model_filenames.values()]
    in_versions = [(path / str(version), each) for version in version_numbers(path) for each in named if each]
    labels = [(path, each.label_filename) for each in config.output if each.label_filename]
    for folder, name in [*in_versions, *labels]:
        if not is_inside(folder, name):
            yield DeployError(
                f"{path / CONFIG_FILE} names {name!r}, which is outside the model's folder.",
                code="repository-path-escapes",
                fix=rewrite_steps(path),
            )
    for each in path.rglob("*"):
        if each.is_symlink() and not each.resolve().is_relative_to(path.resolve()):
            yield DeployError(
                f"{each} links to a file outside {path}.",
                code="repository-path-escapes",
                fix="replace the link with a copy of its target",
            )


def _missing_file_problems(folder: Path, config: Config) -> Iterator[DeployError]:
    for name in sorted(loaded_files(config)):
        path = folder / name
        if is_inside(folder, name) and not path.exists() and not manifest_path(path).is_file():
            model = folder.parent
            is_in_other_version = any((model / str(each) / name).exists() for each in version_numbers(model))
            yield _missing(path, version_repair(folder) if is_in_other_version else rewrite_steps(model))


def _label_problems(path: Path, config: Config) -> Iterator[DeployError]:
    for name in sorted({each.label_filename for each in config.output} - {""}):
        if is_inside(path, name) and not (path / name).is_file():
            yield _missing(path / name, rewrite_steps(path))


def _missing(file: Path, fix: str) -> DeployError:
    problem = f"{file}, which {CONFIG_FILE} names, is missing."
    return DeployError(problem, code="repository-file-missing", fix=fix)


def _step_problems(
    path: Path, config: Config, configs: dict[str, Config], faulty: set[str]
) -> Iterator[DeployError]:
    """Yield steps of an ensemble whose model is missing, lacks a tensor, or takes smaller batches.

    Args:
        faulty: Models with problems of their own, which are to be repaired first.
    """
    for step in config.ensemble_scheduling.step:
        if step.model_name in faulty:
            continue
        model = configs.get(step.model_name)
        if model is None:
            problem = f"{path.name} needs the model {step.model_name}, which is missing."
            yield DeployError(problem, code="repository-altered", fix=rewrite_steps(path))
            continue
        for tensors, mapped in ((model.input, step.input_map), (model.output, step.output_map)):
            for name in sorted(set(mapped) - {each.name for each in tensors}):
                problem = f"{path.name} needs the tensor {name} of {step.model_name}, which has none."
                yield DeployError(problem, code="repository-model-missing", fix=rewrite_steps(path))
        if model.max_batch_size < config.max_batch_size:
            problem = f"{path.name} takes larger batches than its step {step.model_name}."
            yield DeployError(problem, code="repository-altered", fix=rewrite_steps(path))
