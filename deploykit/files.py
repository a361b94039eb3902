"""Artifacts on disk: written whole or not at all, and named by their digest."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deploykit.errors import DeployError


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces path with content, or leaves everything as it was.

    Raises:
        DeployError: the folder can't be made or written, or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with _temporary_beside(path) as temporary:
            temporary.write_bytes(data)
            temporary.replace(path)
    except OSError as error:
        raise DeployError(
            f"{path} can't be written: {error.strerror}.",
            fix="give another place with -o, or make room there",
        ) from error


def require_writable(path: Path) -> None:
    """Fails now rather than after minutes of work, where path's folder can't be written.

    Raises:
        DeployError: naming the folder.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise DeployError(f"{folder} is not a folder that can be written.", fix="give another place with -o")
    if path.is_dir():
        raise DeployError(
            f"{path} is a folder, not a file.", fix=f"give a file name, such as -o {path}/model.onnx"
        )


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o644)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
