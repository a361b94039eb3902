"""List the files that a test leaves on disk."""

from pathlib import Path


def files_in(folder: Path) -> set[str]:
    """Return the paths of all files in a folder at any depth, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
