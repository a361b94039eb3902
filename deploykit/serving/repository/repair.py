"""Commands that repair a repository: fixes that work when a user follows them."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from deploykit.engine.manifest import manifest_path
from deploykit.serving.repository.names import (
    CONFIG_FILE,
    DECODER_SUFFIX,
    ENGINE_SUFFIX,
    IMAGE_SUFFIX,
    version_numbers,
)
from deploykit.util.errors import DeployError

# Searched as text, because the configuration may be what is invalid.
_PYTHON_BACKEND = re.compile(r"""^\s*backend\s*:\s*["']python["']""", re.MULTILINE)


def write_command(model: Path, backend: str | None = None) -> str:
    """Return the command that writes a model into its repository, and leaves existing files alone.

    Args:
        model: The model's folder.
        backend: Triton backend to write it for; None for the one that runs it now.
    """
    name = _engine_model_name(model)
    is_python = _runs_on_python(model.parent / name) if backend is None else backend == "python"
    backend = " --backend python" if is_python else ""
    return f"deploykit serve --triton {model.parent} ENGINE --name {name}{backend}"


def rewrite_steps(model: Path) -> str:
    """Return how to write a model again: its folder is moved, not removed, as it may hold the only copy."""
    return _move_step([model]) + write_command(model)


def version_repair(version: Path) -> str:
    """Return how to repair one version: remove it, or rewrite the model if it has no other version."""
    others = set(version_numbers(version.parent)) - {int(version.name)}
    return f"remove {version}" if others else rewrite_steps(version.parent)


def combine_repairs(
    problems: Sequence[tuple[Path, DeployError]], backend: str | None = None
) -> list[DeployError]:
    """Return the problems, each with a fix that moves every folder that is in its way.

    deploykit writes none of an engine's models while one of them is invalid, so they move together.

    Args:
        problems: Each with its model's folder.
        backend: As for write_command.
    """
    to_move: dict[str, dict[Path, None]] = {}
    for path, error in problems:
        if error.fix.endswith(rewrite_steps(path)):
            to_move.setdefault(write_command(path), {})[path] = None

    def combined(path: Path, fix: str) -> str:
        command = write_command(path)
        if not fix.endswith(command):
            return fix
        before = fix.removesuffix(command).removesuffix(_move_step([path]))
        return before + _move_step(to_move.get(command, {})) + write_command(path, backend)

    return [
        DeployError(error.problem, code=error.code, fix=combined(path, error.fix)) for path, error in problems
    ]


def _move_step(models: Collection[Path]) -> str:
    if not models:
        return ""
    *others, last = map(str, models)
    named = f"{', '.join(others)} and {last}" if others else last
    return f"move {named} out of {Path(last).parent}, then "


def _runs_on_python(model: Path) -> bool:
    """Judge by the engines in a model's folder, or by its configuration if there are none."""
    engines = [each for each in model.glob("*/*") if _is_engine(each) or ENGINE_SUFFIX in each.name]
    if engines:
        return any(ENGINE_SUFFIX in each.name for each in engines)
    try:
        return _PYTHON_BACKEND.search((model / CONFIG_FILE).read_text(errors="replace")) is not None
    except OSError:
        return False


def _engine_model_name(model: Path) -> str:
    """Return the name of the engine's model, for a decoder or an ensemble as well."""
    for suffix in (DECODER_SUFFIX, IMAGE_SUFFIX):
        if model.name.endswith(suffix) and not any(map(_is_engine, model.glob("*/*"))):
            return model.name.removesuffix(suffix)
    return model.name


def _is_engine(path: Path) -> bool:
    return manifest_path(path).is_file()
