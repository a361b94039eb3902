"""Whether a Triton model repository agrees with the engines in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploykit.engine.manifest import manifest_path
from deploykit.serving.repository.altered import altered_around, altered_engine, newest_manifest
from deploykit.serving.repository.config import Config, read_config
from deploykit.serving.repository.config_diff import differs
from deploykit.serving.repository.folders import folders_in, is_model, repository_at, require_model
from deploykit.serving.repository.inventory import Version, versions_of
from deploykit.serving.repository.layout import loaded_files
from deploykit.serving.repository.names import CONFIG_FILE, NAMES, is_name, stays_inside, versions_in
from deploykit.serving.repository.repair import do_without, mended_together, write_anew
from deploykit.util.errors import DeployError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong with a model."""

    model: str
    problem: str
    code: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedModel:
    """Attributes: engines: those compared with their manifests; runs_here: of these, how many run here."""

    name: str
    kind: str
    versions: tuple[int, ...]
    engines: int
    runs_here: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRepository:
    models: tuple[CheckedModel, ...]
    findings: tuple[Finding, ...]


def check_repository(folder: str | Path) -> CheckedRepository:
    """Compares models with the manifests of their engines: configurations, engines, and texts beside them.

    Raises:
        DeployError: the folder is no repository.
    """
    folder = repository_at(folder)
    if not folder.is_dir():
        raise DeployError(
            f"There is no folder {folder}.",
            code="file-not-found",
            fix="deploykit serve --triton DIR ENGINE makes one",
        )
    paths = folders_in(folder)
    if not paths:
        raise DeployError(
            f"{folder} holds no models.",
            code="repository-empty",
            fix="deploykit serve --triton DIR ENGINE puts some in",
        )
    if not any(map(is_model, paths)):
        raise DeployError(
            f"{folder} is no model repository: none of its folders has a {CONFIG_FILE}.",
            code="repository-empty",
            fix="give the folder above the models' own; deploykit serve --triton DIR ENGINE makes a new one",
        )
    configs: dict[str, Config] = {}
    wrong: list[tuple[str, DeployError]] = []
    for path in paths:
        try:
            require_model(path)
            _require_named(path)
            configs[path.name] = read_config(path / CONFIG_FILE)
        except DeployError as error:
            wrong.append((path.name, error))
    versions = {name: versions_of(folder / name, config) for name, config in configs.items()}
    manifests = {name: each for name, own in versions.items() if (each := newest_manifest(own)) is not None}
    for name, config in configs.items():
        wrong += [(name, each) for each in _wrong_with(folder / name, config, versions[name])]
    for name, manifest in manifests.items():
        wrong += altered_around(folder / name, manifest, configs, manifests)
    blamed = {name for name, _ in wrong}
    for name, config in configs.items():
        wrong += [(name, each) for each in _unconnected(folder / name, config, configs, blamed)]
    mended = mended_together([(folder / name, each) for name, each in wrong])
    return CheckedRepository(
        models=tuple(_checked(name, config, versions[name]) for name, config in configs.items()),
        findings=tuple(
            Finding(model=name, problem=each.problem, code=each.code, fix=each.fix)
            for (name, _), each in zip(wrong, mended, strict=True)
        ),
    )


def _require_named(path: Path) -> None:
    if not is_name(path.name):
        raise DeployError(
            f"{path.name!r} can't be a model's name.",
            code="invalid-model-name",
            fix=f"rename {path}, in its {CONFIG_FILE} and wherever another model names it too: {NAMES}",
        )


def _checked(name: str, config: Config, versions: tuple[Version, ...]) -> CheckedModel:
    return CheckedModel(
        name=name,
        kind=config.platform or config.backend,
        versions=tuple(int(each.folder.name) for each in versions),
        engines=sum(len(each.engines) for each in versions),
        runs_here=sum(each.runs_here for each in versions),
    )


def _wrong_with(path: Path, config: Config, versions: tuple[Version, ...]) -> Iterator[DeployError]:
    """All that can be said of a model by itself."""
    yield from _misnamed(path, config)
    yield from _leaving(path, config)
    yield from _missing_labels(path, config)
    if not versions:
        yield DeployError(f"{path} has no version.", code="repository-version-missing", fix=write_anew(path))
    for version in versions:
        yield from version.broken
        for engine, manifest in version.engines.items():
            for each in differs(config, engine, manifest):
                yield DeployError(f"{engine} {each}", code="repository-engine-invalid", fix=write_anew(path))
        yield from _missing_files(version.folder, config)
    yield from altered_engine(path, config, versions)


def _misnamed(path: Path, config: Config) -> Iterator[DeployError]:
    if config.name not in ("", path.name):
        yield DeployError(
            f"{path / CONFIG_FILE} is for {config.name!r}.",
            code="repository-config-mismatch",
            fix=f"name the folder {config.name}, or {write_anew(path)}",
        )


def _leaving(path: Path, config: Config) -> Iterator[DeployError]:
    """Whatever a configuration names, and whatever is a link, stays in the model's folder."""
    named = [config.default_model_filename, *config.cc_model_filenames.values()]
    in_versions = [(path / str(version), each) for version in versions_in(path) for each in named if each]
    labels = [(path, each.label_filename) for each in config.output if each.label_filename]
    for folder, name in [*in_versions, *labels]:
        if not stays_inside(folder, name):
            yield DeployError(
                f"{path / CONFIG_FILE} names {name!r}, outside of its folder.",
                code="repository-path-escapes",
                fix=write_anew(path),
            )
    for each in path.rglob("*"):
        if each.is_symlink() and not each.resolve().is_relative_to(path.resolve()):
            yield DeployError(
                f"{each} is a link that leaves {path}.",
                code="repository-path-escapes",
                fix="copy there what it leads to",
            )


def _missing_files(folder: Path, config: Config) -> Iterator[DeployError]:
    for name in sorted(loaded_files(config)):
        path = folder / name
        if stays_inside(folder, name) and not path.exists() and not manifest_path(path).is_file():
            model = folder.parent
            is_elsewhere = any((model / str(each) / name).exists() for each in versions_in(model))
            yield _missing(path, do_without(folder) if is_elsewhere else write_anew(model))


def _missing_labels(path: Path, config: Config) -> Iterator[DeployError]:
    for name in sorted({each.label_filename for each in config.output} - {""}):
        if stays_inside(path, name) and not (path / name).is_file():
            yield _missing(path / name, write_anew(path))


def _missing(file: Path, fix: str) -> DeployError:
    return DeployError(
        f"{file}, which {CONFIG_FILE} names, is not there.", code="repository-file-missing", fix=fix
    )


def _unconnected(
    path: Path, config: Config, configs: dict[str, Config], blamed: set[str]
) -> Iterator[DeployError]:
    """Steps of an ensemble whose model is missing, or has no tensor of that name.

    Args:
        blamed: models that something is wrong with, which comes first.
    """
    for step in config.ensemble_scheduling.step:
        if step.model_name in blamed:
            continue
        model = configs.get(step.model_name)
        if model is None:
            problem = f"{path.name} needs {step.model_name}, which is not there."
            yield DeployError(problem, code="repository-altered", fix=write_anew(path))
            continue
        for tensors, mapped in ((model.input, step.input_map), (model.output, step.output_map)):
            for name in sorted(set(mapped) - {each.name for each in tensors}):
                yield DeployError(
                    f"{path.name} needs {name} of {step.model_name}.",
                    code="repository-model-missing",
                    fix=write_anew(path),
                )
        if model.max_batch_size < config.max_batch_size:
            problem = f"{path.name} takes more images at once than {step.model_name}."
            yield DeployError(problem, code="repository-altered", fix=write_anew(path))
