"""Read the versions of a model, and the engines in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploykit.engine.manifest import EngineManifest, manifest_path
from deploykit.runtime.preflight import preflight
from deploykit.serving.repository.config import Config
from deploykit.serving.repository.model_folder import ENGINE_SUFFIXES, has_content, model_py_files
from deploykit.serving.repository.names import version_numbers
from deploykit.serving.repository.repair import version_repair
from deploykit.util.errors import DeployError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """The contents of a version's folder.

    Attributes:
        folder: The version's folder.
        engines: Valid engines, with their manifests.
        runs_here: How many of them run on this machine.
        broken: What is wrong with the other engines.
    """

    folder: Path
    engines: Mapping[Path, EngineManifest]
    runs_here: int
    broken: tuple[DeployError, ...]


def read_versions(model: Path, config: Config) -> tuple[ModelVersion, ...]:
    """Read all versions in a model's folder, ascending."""
    return tuple(read_version(model / str(each), config) for each in version_numbers(model))


def read_version(folder: Path, config: Config) -> ModelVersion:
    """Read one version of a model with this configuration."""
    engines: dict[Path, EngineManifest] = {}
    runs_here, broken = 0, []
    candidates = _engines_in(folder, config)
    for engine in candidates:
        try:
            checked = preflight(engine)
        except DeployError as error:
            fix = f"copy the engine and its manifest there again, or {version_repair(folder)}"
            broken.append(DeployError(error.problem, code=error.code, fix=fix))
            continue
        engines[engine] = checked.manifest
        runs_here += checked.runs
    if not candidates and _needs_engine(folder, config):
        problem = f"{folder} holds no engine."
        broken.append(DeployError(problem, code="engine-not-found", fix=version_repair(folder)))
    return ModelVersion(folder=folder, engines=engines, runs_here=runs_here, broken=tuple(broken))


def newest_manifest(versions: tuple[ModelVersion, ...]) -> EngineManifest | None:
    """Return the manifest of the newest version with an engine; all engines of a version are of one model."""
    manifests = [manifest for version in versions for manifest in version.engines.values()]
    return manifests[-1] if manifests else None


def _engines_in(folder: Path, config: Config) -> list[Path]:
    """Return engines, with or without their manifest, and paths whose manifest alone is left."""
    return sorted({*_with_manifest(folder), *_only_manifest(folder), *_without_manifest(folder, config)})


def _with_manifest(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if manifest_path(each).is_file())


def _only_manifest(folder: Path) -> Iterator[Path]:
    for suffix in ENGINE_SUFFIXES.values():
        yield from (each.with_suffix("") for each in folder.glob(f"*{manifest_path(Path(suffix)).name}"))


def _without_manifest(folder: Path, config: Config) -> Iterator[Path]:
    """For the Python backend engines have a suffix of their own; for others the configuration names them."""
    if config.backend == "python":
        yield from folder.glob(f"*{ENGINE_SUFFIXES['python']}")
    elif config.backend in ENGINE_SUFFIXES:
        named = {config.default_model_filename, *config.cc_model_filenames.values()}
        yield from (each for each in folder.iterdir() if each.name in named)


def _needs_engine(folder: Path, config: Config) -> bool:
    """Return whether deploykit's program runs there, judging by this version or any other of the model."""
    if config.backend != "python":
        return False
    siblings = [folder.parent / str(each) for each in version_numbers(folder.parent)]
    ((name, program),) = model_py_files("python").items()
    return any(_engines_in(each, config) or has_content(each / name, program) for each in siblings)
