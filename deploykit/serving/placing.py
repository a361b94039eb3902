"""Puts models and versions into a repository in one step each, so that no server ever sees half of one."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploykit.errors import DeployError
from deploykit.serving.config import CONFIG_FILE, read_config, to_text
from deploykit.serving.layout import ModelFolder, Source
from deploykit.serving.names import versions_in

Note = Callable[[str], None]


def make_repository(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeployError(
            f"{folder} can't be a model repository: {error.strerror}.", fix="name another folder"
        ) from error


def put_models(folder: Path, models: Sequence[ModelFolder], note: Note) -> int:
    """The engine first, what leads to it last: a server that looks meanwhile finds all it needs.

    Returns:
        The version of the engine.

    Raises:
        DeployError: the disk is full, or the folder can't be written.
    """
    engine, *around = models
    version = _put_engine(folder, engine, note)
    for model in around:
        if not (folder / model.name).exists():
            _put_new(folder, model)
    return version


def _put_engine(folder: Path, model: ModelFolder, note: Note) -> int:
    path = folder / model.name
    if not path.exists():
        _put_new(folder, model)
        return 1
    if to_text(read_config(path / CONFIG_FILE)) != to_text(model.config):
        note(f"{path / CONFIG_FILE} stays as it is; remove {path} first to have it written anew.")
    version = max(versions_in(path), default=0) + 1
    with _staging(path) as staging:  # Triton passes over folders that are no numbers
        _fill(staging / "new", model.version)
        (staging / "new").rename(path / str(version))
    return version


def _put_new(folder: Path, model: ModelFolder) -> None:
    """Made beside the repository, where a server that looks meanwhile would take it for a model."""
    with _staging(folder.absolute().parent) as staging:
        _fill(staging / "new", {CONFIG_FILE: to_text(model.config), **model.beside})
        _fill(staging / "new" / "1", model.version)
        try:
            (staging / "new").rename(folder / model.name)
        except OSError as error:
            raise DeployError(
                f"{folder / model.name} can't be put there in one step: {error.strerror}.",
                fix="name a folder inside of that file system for the repository",
            ) from error


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=".deploykit-", dir=parent))
    except OSError as error:
        raise DeployError(
            f"{parent} can't be written: {error.strerror}.", fix="name a folder that can be written"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, Source]) -> None:
    """Raises: DeployError: the disk is full, or a file has gone."""
    try:
        folder.mkdir()
        folder.chmod(0o755)
        for name, source in files.items():
            target = folder / name
            if isinstance(source, Path):
                shutil.copyfile(source, target)
            else:
                target.write_text(source)
            _flush(target)
    except OSError as error:
        raise DeployError(
            f"{folder.name} can't be written: {error.strerror} ({error.filename}).",
            fix="make room there, or name another folder",
        ) from error


def _flush(path: Path) -> None:
    """Onto the disk: what is renamed after shall be whole after a power cut too."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
