"""Install models and versions in a repository atomically, so that no server ever sees half of one."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploykit.serving.repository.config import config_text, read_config
from deploykit.serving.repository.model_folder import MODEL_PY, FileSource, ModelFolder, has_content
from deploykit.serving.repository.names import CONFIG_FILE, is_version_name, version_numbers
from deploykit.serving.repository.repair import rewrite_steps
from deploykit.util.errors import DeployError

_NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of network file systems
_BYTECODE = "__pycache__"
_BYTECODE_PLACEHOLDER = (
    "This file keeps Python from creating a folder of bytecode here when it loads the model.\n"
    "Triton would take that folder for a change of the model, and load it again.\n"
)


def create_repository(folder: Path) -> None:
    """Create a repository's folder, unless it exists.

    Raises:
        DeployError: It can't be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeployError(
            f"Cannot create the model repository {folder}: {error.strerror}.",
            code="repository-unwritable",
            fix="give a folder that can be written",
        ) from error


def install_models(folder: Path, models: Sequence[ModelFolder], note: Callable[[str], None]) -> int:
    """Install the engine's model first and the ensemble last, so that a server finds every step it needs.

    Returns:
        The version of the engine's model.

    Raises:
        DeployError: The disk is full, the folder can't be written, or version numbers are exhausted.
    """
    engine, *others = models
    version, is_new = _install_engine(folder, engine, note)
    missing = [model for model in others if not (folder / model.name).exists()]
    for model in missing:
        _install_new_model(folder, model)
    if not is_new:
        written = (
            f"wrote only {' and '.join(model.name for model in missing)}" if missing else "wrote nothing"
        )
        note(f"{engine.name} already has this engine as version {version}; {written}.")
    return version


def _install_engine(folder: Path, model: ModelFolder, note: Callable[[str], None]) -> tuple[int, bool]:
    """Return the version, and whether it was written now."""
    path = folder / model.name
    if not path.exists():
        _install_new_model(folder, model)
        return 1, True
    if config_text(read_config(path / CONFIG_FILE)) != config_text(model.config):
        note(f"Keeping the existing {path / CONFIG_FILE}; to replace it, {rewrite_steps(path)}.")
    newest = max(version_numbers(path), default=0)
    if newest and _has_files(path / str(newest), model.version_files):
        return newest, False
    version = 1 + max((int(each.name) for each in path.iterdir() if is_version_name(each.name)), default=0)
    if not is_version_name(str(version)):
        raise DeployError(
            f"The next version of {path} would be {version}, which Triton does not accept.",
            code="repository-version-invalid",
            fix=rewrite_steps(path),
        )
    with _staged(path / str(version), repository=folder) as staged:
        _write_version(staged, model)
    return version, True


def _has_files(folder: Path, files: Mapping[str, FileSource]) -> bool:
    """Return whether a version's folder holds exactly these files, byte for byte."""
    if {each.name for each in folder.iterdir()} - {_BYTECODE} != set(files):
        return False
    return all(has_content(folder / name, source) for name, source in files.items())


def _install_new_model(folder: Path, model: ModelFolder) -> None:
    with _staged(folder / model.name, repository=folder) as staged:
        _write_files(staged, {CONFIG_FILE: config_text(model.config), **model.model_files})
        _write_version(staged / "1", model)


@contextmanager
def _staged(path: Path, *, repository: Path) -> Iterator[Path]:
    """Yield the path of a folder to create; when the block ends, it is moved to `path`.

    It is created beside the repository: inside it, a server could take it for a model or a change of one.

    Raises:
        DeployError: A folder can't be written, the disk is full, or the file systems differ.
    """
    parent = repository.absolute().parent
    try:
        staging = Path(tempfile.mkdtemp(prefix=".deploykit-", dir=parent))
    except OSError as error:
        raise DeployError(
            f"Cannot write to {parent}: {error.strerror}.",
            code="repository-unwritable",
            fix="give a repository inside a folder that can be written",
        ) from error
    try:
        try:
            yield staging / "new"
        except OSError as error:
            raise DeployError(
                f"Cannot write {path}: {error.strerror}.",
                code="repository-unwritable",
                fix="free some disk space, or give another folder",
            ) from error
        try:
            for folder, _, _ in os.walk(staging / "new", topdown=False):
                _flush_folder(Path(folder))
            (staging / "new").rename(path)
            _flush_folder(path.parent)
        except OSError as error:
            raise DeployError(
                f"Cannot move the finished folder to {path}: {error.strerror}.",
                code="repository-unwritable",
                fix="give a repository whose parent folder is on the same file system",
            ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_version(folder: Path, model: ModelFolder) -> None:
    is_python = MODEL_PY in model.version_files
    placeholder = {_BYTECODE: _BYTECODE_PLACEHOLDER} if is_python else {}
    _write_files(folder, {**model.version_files, **placeholder})


def _write_files(folder: Path, files: Mapping[str, FileSource]) -> None:
    """Create a folder with these files, flushed to disk.

    Raises:
        DeployError: A file to copy can't be read.
    """
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
        original = source.open("rb")
    except OSError as error:
        raise DeployError(
            f"Cannot read {source}: {error.strerror}.",
            code="file-unreadable",
            fix="restore the file and its manifest, or build the engine again",
        ) from error
    with original, target.open("wb") as copy:
        shutil.copyfileobj(original, copy)


def _flush(path: Path) -> None:
    """Flush a file to disk, so that what is renamed later is complete even after a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(path: Path) -> None:
    """Flush the names in a folder, which flushing its files does not."""
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
