"""Locate the user's cache folder, for files that deploykit can rebuild at any time."""

import os
from pathlib import Path

from deploykit.util.errors import DeployError


def cache_folder() -> Path:
    """Return deploykit's folder in XDG_CACHE_HOME, by default in ~/.cache. It need not exist yet.

    Raises:
        DeployError: The user has no home folder.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named, "deploykit")
    try:
        return Path.home() / ".cache" / "deploykit"
    except RuntimeError as error:
        raise DeployError(
            "This user has no home folder for the cache.",
            code="cache-folder-missing",
            fix="export XDG_CACHE_HOME=/path/to/a/writable/folder",
        ) from error
