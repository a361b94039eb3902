"""What a test left on disk."""

from pathlib import Path


def files_in(folder: Path) -> set[str]:
    """All files at any depth, by their paths from there."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
