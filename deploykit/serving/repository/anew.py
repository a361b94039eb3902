"""How what was altered in a repository is written again: fixes that work when they are followed."""

from pathlib import Path

from deploykit.engine.manifest import manifest_path
from deploykit.serving.repository.names import DECODER_SUFFIX, ENGINE_SUFFIX, IMAGE_SUFFIX, versions_in


def write_missing(model: Path) -> str:
    """The command that puts a model into its repository, which leaves alone what is there."""
    name = _engine_name(model)
    is_pythons = any((model.parent / name).glob(f"*/*{ENGINE_SUFFIX}*"))
    backend = " --backend python" if is_pythons else ""
    return f"deploykit serve --triton {model.parent} ENGINE --name {name}{backend}"


def write_anew(model: Path) -> str:
    """For whatever is wrong in a model's folder; what is in it is kept, for there may be no other."""
    return f"move {model} out of {model.parent}, then {write_missing(model)}"


def do_without(version: Path) -> str:
    """For what is wrong in one version's folder."""
    others = set(versions_in(version.parent)) - {int(version.name)}
    return f"remove {version}" if others else write_anew(version.parent)


def _engine_name(model: Path) -> str:
    """Of the model that another one is around, or its own."""
    for suffix in (DECODER_SUFFIX, IMAGE_SUFFIX):
        if model.name.endswith(suffix) and not any(map(_is_engine, model.glob("*/*"))):
            return model.name.removesuffix(suffix)
    return model.name


def _is_engine(path: Path) -> bool:
    return manifest_path(path).is_file()
