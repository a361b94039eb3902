"""Names that become folders and paths of requests: checked, so that none leads elsewhere."""

import re
from pathlib import Path, PurePosixPath

from deploykit.util.errors import DeployError

CONFIG_FILE = "config.pbtxt"
DECODER_SUFFIX, IMAGE_SUFFIX = "-decode", "-image"
"""What the models around an engine's are called besides its name."""
ENGINE_SUFFIX = ".engine"

NAMES = "up to 100 letters, digits, _, - and dots, a letter or digit first"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")  # Triton's is an int64


def is_name(name: str) -> bool:
    """Whether it is fit for a folder and for a URL."""
    return _NAME.fullmatch(name) is not None


def require_name(name: str) -> str:
    """The name, which is fit for a folder and for a URL.

    Raises:
        DeployError: it is not.
    """
    if not is_name(name):
        raise DeployError(
            f"{name!r} can't be a model's name.",
            code="invalid-model-name",
            fix=f"use {NAMES}: --name flowers",
        )
    return name


def is_version(name: str) -> bool:
    """Whether Triton takes a folder of that name for a version; all others it passes over."""
    return _VERSION.fullmatch(name) is not None


def versions_in(model: Path) -> tuple[int, ...]:
    """The versions of a model that are there, ascending."""
    return tuple(
        sorted(int(each.name) for each in model.iterdir() if is_version(each.name) and each.is_dir())
    )


def stays_inside(folder: Path, name: str) -> bool:
    """Whether what a configuration calls by a name lies in its folder, links followed."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return False
    return (folder / path).resolve().is_relative_to(folder.resolve())
