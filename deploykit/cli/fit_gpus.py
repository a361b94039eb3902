"""The GPUs that `fit --gpu` names."""

from collections.abc import Sequence
from pathlib import Path

from deploykit.cli.notes import note
from deploykit.gpu_catalog.gpu_file import read_gpu_file
from deploykit.gpu_catalog.gpus import Gpu, normalize_gpu_name, normalized_names, normalized_synonyms
from deploykit.util.errors import DeployError


def select_gpus(names: str, files: Sequence[Path]) -> Sequence[str | Gpu]:
    """Return the GPUs that a list of names means, each once; descriptions in a file override known facts.

    Args:
        names: Names separated by commas.
        files: The files given with --gpu-file, at most one.

    Raises:
        DeployError: Several files were given, or the file can't be read.
    """
    if len(files) > 1:
        raise DeployError(
            f"--gpu-file was given {len(files)} times.",
            code="option-repeated",
            fix="put the tables of all GPUs into one file",
        )
    described = _read(files[0]) if files else ()
    by_name = {key: each for each in described for key in normalized_names(each)}
    by_name |= {normalize_gpu_name(each.name): each for each in described}  # a name wins over an alias
    selected: dict[frozenset[str], str | Gpu] = {}
    for name in map(str.strip, names.split(",")):
        synonyms = (each for each in described if normalized_names(each) & normalized_synonyms(name))
        gpu = by_name.get(normalize_gpu_name(name)) or next(synonyms, name)
        selected[normalized_names(gpu) if isinstance(gpu, Gpu) else normalized_synonyms(name)] = gpu
    if described and not any(isinstance(each, Gpu) for each in selected.values()):
        note(f"--gpu names no GPU of {files[0]}, which has {', '.join(each.name for each in described)}.")
    return list(selected.values())


def _read(file: Path) -> tuple[Gpu, ...]:
    gpus, warnings = read_gpu_file(file)
    for warning in warnings:
        note(warning)
    return gpus
