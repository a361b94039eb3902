"""Names of models, versions and files, checked because they become folders and parts of URLs."""

import re
from pathlib import Path, PurePosixPath

from deploykit.util.errors import DeployError

CONFIG_FILE = "config.pbtxt"
DECODER_SUFFIX, IMAGE_SUFFIX = "-decode", "-image"
"""Appended to an engine's model name: the decoder, and the ensemble that takes encoded images."""
ENGINE_SUFFIX = ".engine"

NAME_RULES = "up to 100 letters, digits, '_', '-' and '.', starting with a letter or digit"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")  # Triton's versions are int64


def is_model_name(name: str) -> bool:
    """Return whether a name may be a folder and part of a URL."""
    return _NAME.fullmatch(name) is not None


def require_model_name(name: str) -> str:
    """Return the name, if it may be a folder and part of a URL.

    Raises:
        DeployError: It may not.
    """
    if not is_model_name(name):
        raise DeployError(
            f"{name!r} is not a valid model name.",
            code="invalid-model-name",
            fix=f"use {NAME_RULES}, for example --name flowers",
        )
    return name


def is_version_name(name: str) -> bool:
    """Return whether Triton takes a folder of this name for a version; it ignores all others."""
    return _VERSION.fullmatch(name) is not None


def version_numbers(model: Path) -> tuple[int, ...]:
    """Return the versions in a model's folder, ascending."""
    return tuple(
        sorted(int(each.name) for each in model.iterdir() if is_version_name(each.name) and each.is_dir())
    )


def is_inside(folder: Path, name: str) -> bool:
    """Return whether a file name in a configuration stays in its folder once links are followed."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return False
    return (folder / path).resolve().is_relative_to(folder.resolve())
