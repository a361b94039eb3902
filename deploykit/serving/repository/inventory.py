"""The engines that are in a model's versions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploykit.engine.manifest import EngineManifest, manifest_path
from deploykit.runtime.preflight import preflight
from deploykit.serving.repository.config import Config
from deploykit.serving.repository.layout import SUFFIXES, engine_program, is_written
from deploykit.serving.repository.names import versions_in
from deploykit.serving.repository.repair import do_without
from deploykit.util.errors import DeployError


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What a version's folder holds.

    Attributes:
        engines: those that are whole, with their manifests.
        runs_here: how many of them do.
        broken: what is wrong with the others.
    """

    folder: Path
    engines: Mapping[Path, EngineManifest]
    runs_here: int
    broken: tuple[DeployError, ...]


def versions_of(path: Path, config: Config) -> tuple[Version, ...]:
    """Of the model in a folder, ascending."""
    return tuple(read_version(path / str(each), config) for each in versions_in(path))


def read_version(folder: Path, config: Config) -> Version:
    engines: dict[Path, EngineManifest] = {}
    runs_here, broken = 0, []
    named = _engines_in(folder, config)
    for engine in named:
        try:
            checked = preflight(engine)
        except DeployError as error:
            again = f"copy engine and manifest there again, or {do_without(folder)}"
            broken.append(DeployError(error.problem, code=error.code, fix=again))
            continue
        engines[engine] = checked.manifest
        runs_here += checked.runs
    if not named and _wants_engine(folder, config):
        broken.append(
            DeployError(f"There is no engine in {folder}.", code="engine-not-found", fix=do_without(folder))
        )
    return Version(folder=folder, engines=engines, runs_here=runs_here, broken=tuple(broken))


def _engines_in(folder: Path, config: Config) -> list[Path]:
    """Whatever has a manifest, has lost its manifest, or has left it behind."""
    return sorted({*_with_manifest(folder), *_left(folder), *_without_manifest(folder, config)})


def _with_manifest(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if manifest_path(each).is_file())


def _left(folder: Path) -> Iterator[Path]:
    for suffix in SUFFIXES.values():
        yield from (each.with_suffix("") for each in folder.glob(f"*{manifest_path(Path(suffix)).name}"))


def _without_manifest(folder: Path, config: Config) -> Iterator[Path]:
    """Engines have a suffix that is theirs alone for the Python backend, and others are named."""
    if config.backend == "python":
        yield from folder.glob(f"*{SUFFIXES['python']}")
    elif config.backend in SUFFIXES:
        named = {config.default_model_filename, *config.cc_model_filenames.values()}
        yield from (each for each in folder.iterdir() if each.name in named)


def _wants_engine(folder: Path, config: Config) -> bool:
    """Whether what runs there is deploykit's: in this version, or in any other of the model."""
    if config.backend != "python":
        return False
    siblings = [folder.parent / str(each) for each in versions_in(folder.parent)]
    ((name, program),) = engine_program("python").items()
    return any(_engines_in(each, config) or is_written(each / name, program) for each in siblings)
