"""Write files atomically, and compute their digests."""

import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from deploykit.util.errors import DeployError


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Replace a file completely, or change nothing.

    Raises:
        DeployError: The folder can't be created or written, or the disk is full.
    """
    write_all_atomically({Path(path): content})


def write_all_atomically(contents: Mapping[Path, bytes | str]) -> None:
    """Replace files of one folder completely, or change nothing.

    All contents are written to temporary files before the first file is replaced.

    Raises:
        DeployError: The folder can't be created or written, or the disk is full.
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
                fix="free disk space, or choose another folder",
            ) from error
        undo.pop_all()


def require_writable(path: str | Path, *, inputs: tuple[str | Path, ...] = (), option: str = "-o") -> None:
    """Check that an output file can be written, before minutes of work.

    Args:
        path: The output file.
        inputs: Files that the work reads, which the output must not replace.
        option: The command-line option that named the path, for the error's fix.

    Raises:
        DeployError: The path is not a regular file, is one of the inputs, or can't be written.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise DeployError(
                f"{path} exists and is not a regular file.",
                code="output-not-a-file",
                fix=f"name a file with {option}",
            )
        if path.exists() and any(each.exists() and path.samefile(each) for each in map(Path, inputs)):
            raise DeployError(
                f"{path} is both an input and the output.",
                code="output-is-input",
                fix=f"name another file with {option}",
            )
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DeployError(
            f"{path} can't be written: {error.strerror}.",
            code="output-unwritable",
            fix=f"name a file in a writable folder with {option}",
        ) from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, so that two writers of the same files do not mix theirs."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems do not support locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make_folder(folder: Path, undo: ExitStack) -> None:
    """Create the folder and its parents; `undo` removes those that were created."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        undo.callback(_remove_empty, each)


def _remove_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _write_beside(path: Path, content: bytes | str, undo: ExitStack) -> Path:
    """Write the content to a temporary file next to path, and return it; `undo` removes it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}.", dir=path.parent)
    temporary = Path(name)
    undo.callback(temporary.unlink, missing_ok=True)
    with os.fdopen(handle, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    temporary.chmod(0o644)
    return temporary
