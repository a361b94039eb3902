"""Read GPUs that a user describes in a file like gpus.toml."""

import itertools
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploykit.gpu_catalog.gpus import (
    NUMERIC_FACTS,
    TEXT_FACTS,
    THIS_MACHINE,
    Gpu,
    known_gpus,
    look_up_gpu,
    normalize_gpu_name,
    normalized_names,
)
from deploykit.gpu_catalog.plausibility import implausible_facts
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_builtins

_FIX = "use the format of deploykit/gpu_catalog/gpus.toml; docs/fit.md shows an example"
# Orders of magnitude beyond any fact of any GPU. Within these limits every prediction is finite.
_LOW, _HIGH = 1e-6, 1e9
# Known facts that no longer hold if a file sets another: the key invalidates the value.
_OUTDATES = {"tdp_w": "sustained_mhz", "int8_tensor_tops": "int8_dp4a_tops"}


def read_gpu_file(path: str | Path) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """Read the GPUs that a file describes.

    Args:
        path: A TOML file with one table per GPU.

    Returns:
        The GPUs, and a note for each GPU that replaces a known one or has an implausible fact.

    Raises:
        DeployError: The file can't be read, is not TOML, describes no GPU, or has an invalid fact.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(
            f"{path} can't be read: {error}.", code="file-unreadable", fix="name a TOML file with --gpu-file"
        ) from error
    except ValueError as error:  # a syntax error, or an integer of thousands of digits
        raise DeployError(f"{path} is not valid TOML: {error}.", code="gpu-file-invalid", fix=_FIX) from error
    except RecursionError as error:
        raise DeployError(
            f"{path} has brackets nested too deeply.", code="gpu-file-invalid", fix=_FIX
        ) from error
    if not tables:
        raise DeployError(f"{path} describes no GPU.", code="gpu-file-invalid", fix=_FIX)
    gpus = tuple(_gpu(path, name, table) for name, table in tables.items())
    for gpu, other in itertools.combinations(gpus, 2):
        if normalized_names(gpu) & normalized_names(other):
            raise DeployError(
                f"{gpu.name} and {other.name} in {path} share a name.",
                code="gpu-file-invalid",
                fix="give them names that differ by more than case, spaces, dashes or a brand",
            )
    return gpus, tuple(
        sentence for gpu in gpus for sentence in (*_overridden(gpu, path), *implausible_facts(gpu))
    )


def _gpu(path: Path, name: str, table: Any) -> Gpu:
    if not isinstance(table, dict):
        raise DeployError(
            f"{path} has {name} outside a GPU's table.",
            code="gpu-file-invalid",
            fix='write the name of the GPU above it, for example ["My GPU"]',
        )
    if unknown := [fact for fact in table if fact not in (*TEXT_FACTS, *NUMERIC_FACTS, "aliases")]:
        raise DeployError(
            f"{path}: {unknown[0]} of {name} is not a known fact.", code="gpu-file-invalid", fix=_FIX
        )
    for fact in NUMERIC_FACTS:
        if fact in table and (fault := _fault(fact, table[fact])):
            raise DeployError(f"{path}: {fact} of {name} is {fault}.", code="gpu-file-invalid", fix=_FIX)
    try:
        gpu = from_builtins({"name": name, **_known_facts(name, table), "source": str(path), **table}, Gpu)
    except ValueError as error:
        raise DeployError(
            f"{path}: the description of {name} is invalid: {error}.", code="gpu-file-invalid", fix=_FIX
        ) from error
    for each in (gpu.name, *gpu.aliases):
        if fault := _unfit_name(each):
            raise DeployError(
                f"{path} names a GPU {each!r}, {fault}.",
                code="gpu-file-invalid",
                fix='choose another name, for example ["My GPU"]',
            )
    if gpu.compute_capability is not None and not re.fullmatch(r"\d+\.\d", gpu.compute_capability):
        raise DeployError(
            f"{path}: compute_capability of {name} is {gpu.compute_capability!r}.",
            code="gpu-file-invalid",
            fix='write it as "8.9"',
        )
    return gpu


def _known_facts(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a table may omit because the GPU is known by its name."""
    known = look_up_gpu(name)
    if known is None:
        return {"architecture": "unknown"}
    outdated = {old for fact, old in _OUTDATES.items() if fact in table}
    facts = {fact: getattr(known, fact) for fact in (*TEXT_FACTS, *NUMERIC_FACTS) if fact not in outdated}
    return {fact: value for fact, value in facts.items() if value is not None}


def _unfit_name(name: str) -> str | None:
    """Return why --gpu could not use this name, or None."""
    if not normalize_gpu_name(name):
        return "which has no letters or digits besides a brand"
    if normalize_gpu_name(name) in THIS_MACHINE:
        return "which means this machine"
    return "but commas separate GPUs" if "," in name else None


def _fault(fact: str, value: Any) -> str | None:
    """Return an invalid value and what is wrong with it, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return f"{_shown(value)}; it must be a finite number above 0"
    if not _LOW <= value <= _HIGH:
        return f"{_shown(value)}; it must be from {_LOW:g} to {_HIGH:g}"
    if fact == "sm_count" and value % 1:
        return f"{value!r}; it must be an integer"
    return None


def _shown(value: Any) -> str:
    """Return the value as text; Python refuses to print integers of thousands of digits."""
    is_long = isinstance(value, int) and value.bit_length() > 64
    return f"an integer of {value.bit_length()} bits" if is_long else repr(value)


def _overridden(gpu: Gpu, path: Path) -> Iterator[str]:
    completed = look_up_gpu(gpu.name)
    if completed is not None:
        yield (
            f"The {gpu.name} of {path} replaces the built-in {completed.name}, whose facts fill in those "
            "that the file omits."
        )
    for known in known_gpus():
        hiding = [each for each in gpu.aliases if normalize_gpu_name(each) in normalized_names(known)]
        if hiding and known != completed:
            yield f"{hiding[0]} means the {gpu.name} of {path}, not the built-in {known.name}."
