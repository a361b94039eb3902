"""Artifacts on disk: written whole or not at all, and named by their digest."""

import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from deploykit.util.errors import DeployError


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces path with content, or leaves everything as it was.

    Raises:
        DeployError: the folder can't be made or written, or the disk is full.
    """
    write_all_atomically({path: content})


def write_all_atomically(contents: Mapping[Path, bytes | str]) -> None:
    """Replaces files of one folder, or leaves everything as it was: all are written before one is replaced.

    Raises:
        DeployError: the folder can't be made or written, or the disk is full.
    """
    (folder,) = {path.parent for path in contents}
    with ExitStack() as undo:
        try:
            _make_folder(folder, undo)
            temporaries = {path: _write_beside(path, content, undo) for path, content in contents.items()}
            if folders := [path for path in contents if path.is_dir()]:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), folders[0])
            with lock_folder(folder):
                for path, temporary in temporaries.items():
                    temporary.replace(path)
        except OSError as error:
            names = " and ".join(map(str, contents))
            raise DeployError(
                f"{names} can't be written: {error.strerror}.",
                code="output-unwritable",
                fix="make room there, or choose another place",
            ) from error
        undo.pop_all()


def require_writable(path: Path, *, inputs: tuple[Path, ...] = (), option: str = "-o") -> None:
    """Fails now rather than after minutes of work, where path can't be written or shouldn't be.

    Args:
        inputs: files that the work reads, and must not replace.
        option: that named the path.

    Raises:
        DeployError: naming what is in the way.
    """
    try:
        if path.exists() and not path.is_file():
            raise DeployError(
                f"{path} is not a file that can be replaced.",
                code="output-not-a-file",
                fix=f"give the name of a file with {option}",
            )
        if any(each.exists() and path.exists() and path.samefile(each) for each in inputs):
            raise DeployError(
                f"{path} would replace what it is made from.",
                code="output-is-input",
                fix=f"give another name with {option}",
            )
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DeployError(
            f"{path} can't be written: {error.strerror}.",
            code="output-unwritable",
            fix=f"give another place with {option}",
        ) from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Nobody else replaces files of the folder meanwhile: of two that write the same, one's are left."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make_folder(folder: Path, undo: ExitStack) -> None:
    """Makes the folder and its parents; undo removes those it made."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        undo.callback(_remove_empty, each)


def _remove_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _write_beside(path: Path, content: bytes | str, undo: ExitStack) -> Path:
    """A temporary file with the content in path's folder; undo removes it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}.", dir=path.parent)
    temporary = Path(name)
    undo.callback(temporary.unlink, missing_ok=True)
    with os.fdopen(handle, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    temporary.chmod(0o644)
    return temporary
