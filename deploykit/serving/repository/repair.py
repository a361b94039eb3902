"""How what was altered in a repository is written again: fixes that work when they are followed."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from deploykit.engine.manifest import manifest_path
from deploykit.serving.repository.names import (
    CONFIG_FILE,
    DECODER_SUFFIX,
    ENGINE_SUFFIX,
    IMAGE_SUFFIX,
    versions_in,
)
from deploykit.util.errors import DeployError

# As text: what else is in a configuration may be what is wrong with it.
_BY_PYTHON = re.compile(r"""^\s*backend\s*:\s*["']python["']""", re.MULTILINE)


def write_missing(model: Path, backend: str | None = None) -> str:
    """The command that puts a model into its repository, which leaves alone what is there.

    Args:
        backend: to have it run by; None for what runs it there.
    """
    name = _engine_name(model)
    is_pythons = _is_pythons(model.parent / name) if backend is None else backend == "python"
    backend = " --backend python" if is_pythons else ""
    return f"deploykit serve --triton {model.parent} ENGINE --name {name}{backend}"


def write_anew(model: Path) -> str:
    """For whatever is wrong in a model's folder; what is in it is kept, for there may be no other."""
    return _moving([model]) + write_missing(model)


def do_without(version: Path) -> str:
    """For what is wrong in one version's folder."""
    others = set(versions_in(version.parent)) - {int(version.name)}
    return f"remove {version}" if others else write_anew(version.parent)


def mended_together(
    wrong: Sequence[tuple[Path, DeployError]], backend: str | None = None
) -> list[DeployError]:
    """What is wrong with models of a repository, each fix of which moves all that is in the way of it.

    While one of the models of an engine is not as it should be, none is written.

    Args:
        wrong: each with the model's folder.
        backend: as of write_missing.
    """
    moved: dict[str, dict[Path, None]] = {}
    for path, error in wrong:
        if error.fix.endswith(write_anew(path)):
            moved.setdefault(write_missing(path), {})[path] = None

    def mended(path: Path, fix: str) -> str:
        command = write_missing(path)
        if not fix.endswith(command):
            return fix
        otherwise = fix.removesuffix(command).removesuffix(_moving([path]))
        return otherwise + _moving(moved.get(command, {})) + write_missing(path, backend)

    return [DeployError(error.problem, code=error.code, fix=mended(path, error.fix)) for path, error in wrong]


def _moving(models: Collection[Path]) -> str:
    if not models:
        return ""
    *others, last = map(str, models)
    named = f"{', '.join(others)} and {last}" if others else last
    return f"move {named} out of {Path(last).parent}, then "


def _is_pythons(model: Path) -> bool:
    """By the engines that are there, whatever the configuration says; without any by that."""
    engines = [each for each in model.glob("*/*") if _is_engine(each) or ENGINE_SUFFIX in each.name]
    if engines:
        return any(ENGINE_SUFFIX in each.name for each in engines)
    try:
        return _BY_PYTHON.search((model / CONFIG_FILE).read_text(errors="replace")) is not None
    except OSError:
        return False


def _engine_name(model: Path) -> str:
    """Of the model that another one is around, or its own."""
    for suffix in (DECODER_SUFFIX, IMAGE_SUFFIX):
        if model.name.endswith(suffix) and not any(map(_is_engine, model.glob("*/*"))):
            return model.name.removesuffix(suffix)
    return model.name


def _is_engine(path: Path) -> bool:
    return manifest_path(path).is_file()
