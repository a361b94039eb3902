"""Repositories to damage, and what their files say."""

import shutil
from pathlib import Path

from deploykit.serving.repository.check import Finding
from deploykit.serving.repository.options import ModelOptions
from deploykit.util.errors import DeployError

OPTIONS = ModelOptions(name="colours", backend="python")
LABELS = ("red", "green", "blue")


def rewrite(path: Path, before: str, after: str) -> None:
    """Replace text that a file holds."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def edit(change: str, path: Path) -> None:
    """Delete, empty or lengthen a file, or replace text in it: `before -> after`."""
    if change == "delete":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif change == "empty":
        path.write_text("")
    elif change == "lengthen":
        path.write_text(path.read_text() + "violet\n")
    else:
        rewrite(path, *change.split(" -> "))


def described(finding: Finding | DeployError) -> str:
    """Return the sentence with its code, as the command line prints errors."""
    return f"{finding.problem} [{finding.code}]"
