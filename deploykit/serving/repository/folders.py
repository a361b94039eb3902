"""Which folders of a repository are models."""

from pathlib import Path

from deploykit.serving.repository.names import CONFIG_FILE, versions_in
from deploykit.util.errors import DeployError


def repository_at(folder: str | Path) -> Path:
    """The repository's folder, which need not be there.

    Raises:
        DeployError: the name is empty, which would be the current folder.
    """
    if folder == "":
        raise DeployError(
            "A repository's folder has no name.",
            code="output-missing",
            fix='name one: models, or "." for this one',
        )
    return Path(folder)


def folders_in(repository: Path) -> list[Path]:
    return sorted(each for each in repository.iterdir() if each.is_dir())


def is_model(path: Path) -> bool:
    """Or what is left of one."""
    return (path / CONFIG_FILE).exists() or bool(versions_in(path))


def require_model(path: Path) -> None:
    """Raises: DeployError: it is something else, as .git and lost+found are."""
    if not is_model(path):
        raise DeployError(
            f"{path} is no model, and Triton starts with none of its repository while that is there.",
            code="repository-folder-invalid",
            fix=f"take a folder for models alone, or move {path} elsewhere",
        )
