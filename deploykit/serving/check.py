"""Whether a Triton model repository agrees with the engines in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploykit.engine.manifest import Manifest, manifest_path, read_manifest
from deploykit.errors import DeployError
from deploykit.runtime.preflight import preflight
from deploykit.serving.batching import missing_batch
from deploykit.serving.config import CONFIG_FILE, Config, read_config, schema
from deploykit.serving.names import require_name, stays_inside, versions_in
from deploykit.serving.tensors import input_dims, outputs_of, triton_type

_WRITE_AGAIN = "deploykit serve --triton writes it from the engine's manifest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong with a model."""

    model: str
    problem: str
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
    """Compares each model's configuration with the manifests of its engines, and these with the files.

    Raises:
        DeployError: the folder is no repository.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DeployError(
            f"There is no folder {folder}.", fix="deploykit serve --triton DIR ENGINE makes one"
        )
    paths = sorted(each for each in folder.iterdir() if each.is_dir())
    if not paths:
        raise DeployError(
            f"{folder} holds no models.", fix="deploykit serve --triton DIR ENGINE puts some in"
        )
    if not any((each / CONFIG_FILE).exists() for each in paths):
        raise DeployError(
            f"{folder} is no model repository: none of its folders has a {CONFIG_FILE}.",
            fix=f"give the folder above the models' own; deploykit serve --triton {folder} ENGINE makes one",
        )
    models, findings = [], []
    configs: dict[str, Config] = {}
    for path in paths:
        try:
            require_name(path.name)
            configs[path.name] = read_config(path / CONFIG_FILE)
        except DeployError as error:
            findings.append(Finding(model=path.name, problem=error.problem, fix=error.fix))
    for name, config in configs.items():
        checked, wrong = _check_model(folder / name, config, configs)
        models.append(checked)
        findings += [Finding(model=name, problem=error.problem, fix=error.fix) for error in wrong]
    return CheckedRepository(models=tuple(models), findings=tuple(findings))


def _check_model(
    path: Path, config: Config, configs: dict[str, Config]
) -> tuple[CheckedModel, list[DeployError]]:
    wrong = [*_misnamed(path, config), *_leaving(path, config)]
    versions = versions_in(path)
    if not versions:
        wrong.append(DeployError(f"{path} has no version.", fix=_WRITE_AGAIN))
    engines = runs_here = 0
    for version in versions:
        folder = path / str(version)
        for engine in sorted(each for each in folder.iterdir() if manifest_path(each).is_file()):
            engines += 1
            try:
                manifest = read_manifest(engine)
                runs_here += preflight(engine).runs
            except DeployError as error:
                wrong.append(error)
                continue
            wrong += [
                DeployError(f"{engine} {each}", fix=_WRITE_AGAIN) for each in _differs(config, manifest)
            ]
        wrong += _missing_files(folder, config)
    if config.platform == "ensemble":
        wrong += _unconnected(config, configs)
    kind = config.platform or config.backend
    checked = CheckedModel(name=path.name, kind=kind, versions=versions, engines=engines, runs_here=runs_here)
    return checked, wrong


def _misnamed(path: Path, config: Config) -> Iterator[DeployError]:
    if config.name not in ("", path.name):
        yield DeployError(
            f"{path / CONFIG_FILE} is for {config.name!r}.", fix="rename the folder, or write it"
        )


def _leaving(path: Path, config: Config) -> Iterator[DeployError]:
    """Whatever a configuration names, and whatever is a link, stays in the model's folder."""
    named = [config.default_model_filename, *config.cc_model_filenames.values()]
    in_versions = [(path / str(version), each) for version in versions_in(path) for each in named if each]
    labels = [(path, each.label_filename) for each in config.output if each.label_filename]
    for folder, name in [*in_versions, *labels]:
        if not stays_inside(folder, name):
            yield DeployError(
                f"{path / CONFIG_FILE} names {name!r}, outside of its folder.", fix=_WRITE_AGAIN
            )
    for each in path.rglob("*"):
        if each.is_symlink() and not each.resolve().is_relative_to(path.resolve()):
            yield DeployError(f"{each} is a link that leaves {path}.", fix="put the file itself there")


def _missing_files(folder: Path, config: Config) -> Iterator[DeployError]:
    named = {config.default_model_filename, *config.cc_model_filenames.values()} - {""}
    if config.backend == "python" and not config.default_model_filename:
        named = {"model.py"}
    for name in sorted(named):
        if stays_inside(folder, name) and not (folder / name).is_file():
            yield DeployError(f"{folder / name}, which {CONFIG_FILE} names, is not there.", fix=_WRITE_AGAIN)


def _differs(config: Config, manifest: Manifest) -> Iterator[str]:
    """What the configuration says otherwise than the engine, in words."""
    taken = (manifest.input.name, triton_type(manifest.input.dtype), input_dims(manifest))
    given = [(each.name, triton_type(each.dtype), each.shape) for each in outputs_of(manifest)]
    for verb, configured, own in (("takes", config.input, [taken]), ("gives", config.output, given)):
        found = [(each.name, schema().DataType.Name(each.data_type), tuple(each.dims)) for each in configured]
        if found != own:
            yield f"{verb} {_words(own)}; its configuration says {_words(found)}."
    largest = max(each.max for each in manifest.batches)
    if config.max_batch_size > largest:
        yield f"takes batches of up to {largest}; its configuration says {config.max_batch_size}."
    elif (
        config.backend != "python"
        and (size := missing_batch(manifest, config.max_batch_size or 1)) is not None
    ):
        yield f"has no profile for batches of {size}, which its configuration allows."
    late = [size for size in config.dynamic_batching.preferred_batch_size if size > config.max_batch_size]
    if late:
        yield f"is preferred in batches of {late[0]}, above its configuration's max_batch_size."


def _unconnected(config: Config, configs: dict[str, Config]) -> Iterator[DeployError]:
    """Steps of an ensemble whose model is missing, or has no tensor of that name."""
    for step in config.ensemble_scheduling.step:
        model = configs.get(step.model_name)
        if model is None:
            yield DeployError(f"{config.name} needs {step.model_name}, which is not there.", fix=_WRITE_AGAIN)
            continue
        for tensors, mapped in ((model.input, step.input_map), (model.output, step.output_map)):
            for name in sorted(set(mapped) - {each.name for each in tensors}):
                yield DeployError(f"{config.name} needs {name} of {step.model_name}.", fix=_WRITE_AGAIN)
        if model.max_batch_size < config.max_batch_size:
            yield DeployError(
                f"{config.name} takes more images at once than {step.model_name}.", fix=_WRITE_AGAIN
            )


def _words(tensors: list[tuple[str, str, tuple[int, ...]]]) -> str:
    return ", ".join(
        f"{name} {kind.removeprefix('TYPE_')} ({', '.join(map(str, dims))})" for name, kind, dims in tensors
    )
