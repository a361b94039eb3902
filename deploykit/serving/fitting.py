"""Whether a new version fits the model that a repository has already."""

from pathlib import Path

from deploykit.errors import DeployError
from deploykit.serving.config import CONFIG_FILE, LABELS_FILE, Config, read_config, schema
from deploykit.serving.decode_model import RECIPE_FILE
from deploykit.serving.layout import ModelFolder, Source
from deploykit.serving.names import versions_in

_ANOTHER_NAME = "give it a --name of its own"


def require_fits(path: Path, model: ModelFolder) -> None:
    """Fails where the model that is there promises clients what the new one would not keep.

    Raises:
        DeployError: it is no model's folder, or differs in what it takes, gives or is run by.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise DeployError(f"{path} is no folder of a model.", fix=_ANOTHER_NAME)
    there = read_config(path / CONFIG_FILE)
    _require_same("takes", _tensors(there.input), _tensors(model.config.input), path)
    _require_same("gives", _tensors(there.output), _tensors(model.config.output), path)
    _require_same("is run by", _run_by(there), _run_by(model.config), path)
    if there.max_batch_size > model.config.max_batch_size:
        raise DeployError(
            f"{path} takes batches of up to {there.max_batch_size}, and the new engine of up to "
            f"{model.config.max_batch_size}.",
            fix=f"build it with --batch 1,8,{there.max_batch_size}, or {_ANOTHER_NAME}",
        )
    if (path / LABELS_FILE).exists() or model.beside:
        _require_text(path / LABELS_FILE, model.beside.get(LABELS_FILE, ""))
    if RECIPE_FILE in model.version:
        newest = versions_in(path)[-1:]
        for version in newest:
            _require_text(path / str(version) / RECIPE_FILE, model.version[RECIPE_FILE])


def _require_same(verb: str, there: str, new: str, path: Path) -> None:
    if there != new:
        raise DeployError(f"{path} {verb} {there}, and the new engine {new}.", fix=_ANOTHER_NAME)


def _require_text(path: Path, source: Source) -> None:
    if not path.is_file() or path.read_text() != source:
        raise DeployError(f"{path} says something else than the new engine's manifest.", fix=_ANOTHER_NAME)


def _tensors(tensors: Config) -> str:
    return ", ".join(
        f"{each.name} {_type(each.data_type)} ({', '.join(map(str, each.dims))})" for each in tensors
    )


def _type(number: int) -> str:
    name: str = schema().DataType.Name(number)
    return name.removeprefix("TYPE_")


def _run_by(config: Config) -> str:
    files = ", ".join(
        f"{each} for {capability}" for capability, each in sorted(config.cc_model_filenames.items())
    )
    named = " ".join(filter(None, [config.default_model_filename, files]))
    return f"{config.backend or config.platform}{f' ({named})' if named else ''}"
