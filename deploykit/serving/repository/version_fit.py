"""Whether a new version fits the model that a repository has already."""

from collections.abc import Sequence
from pathlib import Path

from deploykit.serving.repository.config import LABELS_FILE, RECIPE_FILE, Config, read_config, run_by
from deploykit.serving.repository.config_diff import differs, tensors_of, words
from deploykit.serving.repository.folders import require_model
from deploykit.serving.repository.inventory import read_version
from deploykit.serving.repository.layout import ModelFolder, Source, is_written, keeping_to
from deploykit.serving.repository.names import CONFIG_FILE, versions_in
from deploykit.serving.repository.repair import mended_together, write_anew
from deploykit.util.errors import DeployError


def fitted(folder: Path, models: Sequence[ModelFolder]) -> list[ModelFolder]:
    """Models of which each leads to those before it, as they go into a repository beside what is there.

    Each takes as many images at once as those before it are configured to take there.

    Raises:
        DeployError: one does not fit what is there.
    """
    found: list[ModelFolder] = []
    wrong: list[tuple[Path, DeployError]] = []
    max_batch = max(model.config.max_batch_size for model in models)
    for each in models:
        path, model = folder / each.name, keeping_to(each, max_batch)
        try:
            require_fits(path, model)
            there = read_config(path / CONFIG_FILE) if path.exists() else model.config
        except DeployError as error:
            wrong.append((path, error))
            continue
        max_batch = min(max_batch, there.max_batch_size)
        found.append(model)
    for first in mended_together(wrong, models[0].config.backend):
        raise first
    return found


def require_fits(path: Path, model: ModelFolder) -> None:
    """Fails where the model that is there promises clients what the new one would not keep.

    Raises:
        DeployError: it is no model's folder, or differs in what it takes, gives or is run by.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise DeployError(
            f"{path} is no folder of a model.", code="repository-folder-invalid", fix=_ways(path)
        )
    require_model(path)
    there = read_config(path / CONFIG_FILE)
    _require_unaltered(path, there)
    for verb, own, new in (
        ("takes", there.input, model.config.input),
        ("gives", there.output, model.config.output),
    ):
        _require_same(verb, words(tensors_of(own)), words(tensors_of(new)), path)
    _require_same("is run by", _run_by(there), _run_by(model.config), path)
    if RECIPE_FILE not in model.version:  # a decoder takes any number
        _require_batches(path, there.max_batch_size, model.config)
    if (path / LABELS_FILE).exists() or model.beside:
        _require_text(path, path, LABELS_FILE, model.beside.get(LABELS_FILE, ""))
    if RECIPE_FILE in model.version:
        newest = versions_in(path)[-1:]
        for version in newest:
            _require_text(path, path / str(version), RECIPE_FILE, model.version[RECIPE_FILE])


def _require_unaltered(path: Path, there: Config) -> None:
    """What an altered configuration promises, the engine there does not keep either."""
    for version in versions_in(path)[-1:]:
        for engine, manifest in read_version(path / str(version), there).engines.items():
            for problem in differs(there, engine, manifest):
                raise DeployError(
                    f"{engine} {problem}", code="repository-engine-invalid", fix=write_anew(path)
                )


def _require_batches(path: Path, promised: int, new: Config) -> None:
    if promised <= new.max_batch_size:
        return
    if new.ensemble_scheduling.step:
        what, fix = "ensemble", write_anew(path)
    else:
        what, fix = "engine", f"build it with --batch 1,8,{promised}, or {_ways(path)}"
    raise DeployError(
        f"{path} takes batches of up to {promised}, and the new {what} of up to {new.max_batch_size}.",
        code="repository-version-mismatch",
        fix=fix,
    )


def _require_same(verb: str, there: str, new: str, path: Path) -> None:
    if there != new:
        raise DeployError(
            f"{path} {verb} {there}, and the new engine {new}.",
            code="repository-version-mismatch",
            fix=_ways(path),
        )


def _require_text(path: Path, folder: Path, name: str, source: Source) -> None:
    file = folder / name
    if not is_written(file, source):
        what = "says something else than the new engine's manifest" if file.is_file() else "is not there"
        raise DeployError(f"{file} {what}.", code="repository-version-mismatch", fix=_ways(path))


def _ways(path: Path) -> str:
    return f"give it a --name of its own; or, to replace the one there, {write_anew(path)}"


def _run_by(config: Config) -> str:
    files = ", ".join(
        f"{each} for {capability}" for capability, each in sorted(config.cc_model_filenames.items())
    )
    named = " ".join(filter(None, [config.default_model_filename, files]))
    return f"{run_by(config)}{f' ({named})' if named else ''}"
