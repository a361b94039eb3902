"""Puts models and versions into a repository in one step each, so that no server ever sees half of one."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploykit.serving.repository.config import read_config, to_text
from deploykit.serving.repository.layout import MODEL_FILE, ModelFolder, Source, is_written
from deploykit.serving.repository.names import CONFIG_FILE, is_version, versions_in
from deploykit.serving.repository.repair import write_anew
from deploykit.util.errors import DeployError

Note = Callable[[str], None]

_FILES_ALONE = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of network file systems that flush no folder
_BYTECODE = "__pycache__"
_INSTEAD_OF_BYTECODE = (
    "This file is where Python would put a folder of bytecode as the model loads.\n"
    "Triton, which looks for changes, would take that for one, and load the model again.\n"
)


def make_repository(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeployError(
            f"{folder} can't be a model repository: {error.strerror}.",
            code="repository-unwritable",
            fix="name another folder",
        ) from error


def put_models(folder: Path, models: Sequence[ModelFolder], note: Note) -> int:
    """The engine first, what leads to it last: a server that looks meanwhile finds all it needs.

    Returns:
        The version of the engine.

    Raises:
        DeployError: the disk is full, the folder can't be written, or there is no number for another version.
    """
    engine, *around = models
    version, is_new = _put_engine(folder, engine, note)
    missing = [model for model in around if not (folder / model.name).exists()]
    for model in missing:
        _put_new(folder, model)
    if not is_new:
        written = " and ".join(model.name for model in missing)
        what = f"only {written} {'was' if len(missing) == 1 else 'were'}" if missing else "nothing was"
        note(f"{engine.name} has this as version {version}: {what} written.")
    return version


def _put_engine(folder: Path, model: ModelFolder, note: Note) -> tuple[int, bool]:
    """Its version, and whether that was written now."""
    path = folder / model.name
    if not path.exists():
        _put_new(folder, model)
        return 1, True
    if to_text(read_config(path / CONFIG_FILE)) != to_text(model.config):
        note(f"{path / CONFIG_FILE} stays as it is; to have another, {write_anew(path)}.")
    newest = max(versions_in(path), default=0)
    if newest and _holds(path / str(newest), model.version):
        return newest, False
    version = 1 + max((int(each.name) for each in path.iterdir() if is_version(each.name)), default=0)
    if not is_version(str(version)):
        raise DeployError(
            f"{path} can have no version {version}.", code="repository-version-invalid", fix=write_anew(path)
        )
    with _staged(path / str(version), repository=folder) as staged:
        _fill_version(staged, model)
    return version, True


def _holds(folder: Path, files: Mapping[str, Source]) -> bool:
    """Whether a version is these files, byte for byte."""
    if {each.name for each in folder.iterdir()} - {_BYTECODE} != set(files):
        return False
    return all(is_written(folder / name, source) for name, source in files.items())


def _put_new(folder: Path, model: ModelFolder) -> None:
    with _staged(folder / model.name, repository=folder) as staged:
        _fill(staged, {CONFIG_FILE: to_text(model.config), **model.beside})
        _fill_version(staged / "1", model)


@contextmanager
def _staged(path: Path, *, repository: Path) -> Iterator[Path]:
    """Gives a folder to make, which then becomes `path`.

    It is beside the repository: inside, a server that looks meanwhile would take it for a model, or for a
    change of one.

    Raises:
        DeployError: that can't be written, the disk is full, or it is another file system's.
    """
    parent = repository.absolute().parent
    try:
        staging = Path(tempfile.mkdtemp(prefix=".deploykit-", dir=parent))
    except OSError as error:
        raise DeployError(
            f"{parent} can't be written: {error.strerror}.",
            code="repository-unwritable",
            fix="name a folder that can be written",
        ) from error
    try:
        try:
            yield staging / "new"
        except OSError as error:
            raise DeployError(
                f"{path} can't be written: {error.strerror}.",
                code="repository-unwritable",
                fix="make room there, or name another folder",
            ) from error
        try:
            for folder, _, _ in os.walk(staging / "new", topdown=False):
                _flush_folder(Path(folder))
            (staging / "new").rename(path)
            _flush_folder(path.parent)
        except OSError as error:
            raise DeployError(
                f"{path} can't be put there in one step: {error.strerror}.",
                code="repository-unwritable",
                fix="name a folder inside of that file system for the repository",
            ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fill_version(folder: Path, model: ModelFolder) -> None:
    is_python = MODEL_FILE in model.version
    _fill(folder, {**model.version, **({_BYTECODE: _INSTEAD_OF_BYTECODE} if is_python else {})})


def _fill(folder: Path, files: Mapping[str, Source]) -> None:
    """Raises: DeployError: a file has gone."""
    folder.mkdir()
    folder.chmod(0o755)
    for name, source in files.items():
        target = folder / name
        if isinstance(source, Path):
            _copy(source, target)
        else:
            target.write_text(source, encoding="utf-8")
        _flush(target)


def _copy(source: Path, target: Path) -> None:
    try:
        given = source.open("rb")
    except OSError as error:
        raise DeployError(
            f"{source} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="put it there again, with its manifest",
        ) from error
    with given, target.open("wb") as copy:
        shutil.copyfileobj(given, copy)


def _flush(path: Path) -> None:
    """Onto the disk: what is renamed after shall be whole after a power cut too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(path: Path) -> None:
    """The names in it, which no file's own flushing puts there."""
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in _FILES_ALONE:
            raise
