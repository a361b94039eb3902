"""GPUs that a user describes in a file, as gpus.toml does."""

import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from deploykit.errors import DeployError
from deploykit.predict.gpus import Gpu, key_of, known_gpus
from deploykit.serial import from_builtins

_TEXTS = ("architecture", "source", "compute_capability")
_FACTS = tuple(field.name for field in fields(Gpu) if field.name not in ("name", "aliases", *_TEXTS))
_FIX = "write facts as deploykit/predict/gpus.toml has them: docs/fit.md shows an example"
_FAR = 10.0  # times beyond all GPUs that are known: likely another unit


def read_gpu_file(path: Path) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The GPUs it describes, and a sentence for each that hides a known one or has a fact of an odd size.

    Raises:
        DeployError: no such file, no TOML, no GPU in it, or a fact that is none.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(
            f"{path} can't be read: {error}.", fix="give a TOML file with --gpu-file"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise DeployError(f"{path} is no TOML: {error}.", fix=_FIX) from error
    if not tables:
        raise DeployError(f"{path} describes no GPU.", fix=_FIX)
    gpus = tuple(_gpu(path, name, table) for name, table in tables.items())
    return gpus, tuple(sentence for gpu in gpus for sentence in (*_hidden(gpu, path), *_doubts(gpu)))


def _gpu(path: Path, name: str, table: Any) -> Gpu:
    if not isinstance(table, dict):
        raise DeployError(f"{path} has {name} outside of a table.", fix=f'begin it with ["{name}"]')
    known = {"architecture": "unknown", "source": str(path)} | table
    if unknown := [fact for fact in known if fact not in (*_TEXTS, *_FACTS, "aliases")]:
        raise DeployError(f"{path}: nobody knows the fact {unknown[0]} of {name}.", fix=_FIX)
    for fact in _FACTS:
        value = known.get(fact)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf
        ):
            raise DeployError(f"{path}: {fact} of {name} is {value!r}, no finite number above 0.", fix=_FIX)
        if fact == "sm_count" and value is not None and value % 1:
            raise DeployError(f"{path}: {fact} of {name} is {value!r}, no whole number.", fix=_FIX)
    try:
        gpu = from_builtins({"name": name, **known}, Gpu)
    except ValueError as error:
        raise DeployError(f"{path}: {name} is not described as a GPU is: {error}.", fix=_FIX) from error
    if gpu.compute_capability is not None and not re.fullmatch(r"\d+\.\d", gpu.compute_capability):
        raise DeployError(
            f"{path}: compute_capability of {name} is {gpu.compute_capability!r}.", fix='write it as "8.9"'
        )
    return gpu


def _hidden(gpu: Gpu, path: Path) -> Iterator[str]:
    for known in known_gpus():
        if key_of(gpu.name) in map(key_of, (known.name, *known.aliases)):
            yield f"{gpu.name} is taken as {path} describes it, not as the {known.name} that is known."


def _doubts(gpu: Gpu) -> Iterator[str]:
    for fact in _FACTS:
        value = getattr(gpu, fact)
        others = [getattr(each, fact) for each in known_gpus() if getattr(each, fact) is not None]
        if value is not None and not min(others) / _FAR <= value <= max(others) * _FAR:
            yield (
                f"{fact} of {gpu.name} is {value:g}, where known GPUs have {min(others):g} to "
                f"{max(others):g}: is that the unit?"
            )
