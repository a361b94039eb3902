"""Tell which folders of a repository are models."""

from pathlib import Path

from deploykit.serving.repository.names import CONFIG_FILE, version_numbers
from deploykit.util.errors import DeployError


def repository_path(folder: str | Path) -> Path:
    """Return the path of a repository, which need not exist.

    Raises:
        DeployError: The name is empty, which Path would take for the current folder.
    """
    if folder == "":
        raise DeployError(
            "The name of the repository's folder is empty.",
            code="output-missing",
            fix='give a folder, for example models, or "." for the current one',
        )
    return Path(folder)


def subfolders(repository: Path) -> list[Path]:
    """Return the folders in a repository, sorted."""
    return sorted(each for each in repository.iterdir() if each.is_dir())


def is_model_folder(path: Path) -> bool:
    """Return whether a folder is a model, or the remains of one."""
    return (path / CONFIG_FILE).exists() or bool(version_numbers(path))


def require_model_folder(path: Path) -> None:
    """Check that a folder is a model, which .git or lost+found is not.

    Raises:
        DeployError: It is something else.
    """
    if not is_model_folder(path):
        raise DeployError(
            f"{path} is not a model, and Triton refuses to start with such a folder in its repository.",
            code="repository-folder-invalid",
            fix=f"use a folder that holds only models, or move {path} elsewhere",
        )
