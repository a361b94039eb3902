"""Read GPUs that a user describes in a file like gpus.toml."""

import itertools
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from deploykit.gpu_catalog.gpus import (
    THIS_MACHINE,
    Gpu,
    known_gpus,
    look_up_gpu,
    normalize_gpu_name,
    normalized_names,
)
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_builtins

_TEXTS = ("architecture", "source", "compute_capability")
_FACTS = tuple(field.name for field in fields(Gpu) if field.name not in ("name", "aliases", *_TEXTS))
_FIX = "use the format of deploykit/gpu_catalog/gpus.toml; docs/fit.md shows an example"
_FAR = 10.0  # a factor beyond all known GPUs that suggests a wrong unit
# Orders of magnitude beyond any fact of any GPU. Within these limits every prediction is finite.
_LOW, _HIGH = 1e-6, 1e9
# FP32 cores per SM. Source: CUDA C++ Programming Guide, compute capabilities; 192 for Kepler.
_FEWEST_CORES, _MOST_CORES = 64, 192
# A factor beyond that range suggests a wrong unit. An H100 SXM5 is off by 1.08: it has two boost clocks.
_CORES_OFF = 1.5
_CORE_FACTS = ("fp32_tflops", "sm_count", "boost_mhz")
# Known facts that no longer hold if a file sets another: the key invalidates the value.
_OUTDATES = {"tdp_w": "sustained_mhz", "int8_tensor_tops": "int8_dp4a_tops"}
_RELATIVE_TO_FP32 = ("memory_bandwidth_gb_s", "fp16_tensor_tflops", "int8_tensor_tops", "int8_dp4a_tops")


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
        sentence for gpu in gpus for sentence in (*_overridden(gpu, path), *_implausible_facts(gpu))
    )


def _gpu(path: Path, name: str, table: Any) -> Gpu:
    if not isinstance(table, dict):
        raise DeployError(
            f"{path} has {name} outside a GPU's table.",
            code="gpu-file-invalid",
            fix='write the name of the GPU above it, for example ["My GPU"]',
        )
    if unknown := [fact for fact in table if fact not in (*_TEXTS, *_FACTS, "aliases")]:
        raise DeployError(
            f"{path}: {unknown[0]} of {name} is not a known fact.", code="gpu-file-invalid", fix=_FIX
        )
    for fact in _FACTS:
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
    facts = {fact: getattr(known, fact) for fact in (*_TEXTS, *_FACTS) if fact not in outdated}
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
            f"{path} overrides the built-in facts of the {completed.name} as {gpu.name}; facts that it omits "
            "are the built-in ones."
        )
    for known in known_gpus():
        hiding = [each for each in gpu.aliases if normalize_gpu_name(each) in normalized_names(known)]
        if hiding and known != completed:
            yield f"{hiding[0]} means the {gpu.name} of {path}, not the built-in {known.name}."


def _implausible_facts(gpu: Gpu) -> tuple[str, ...]:
    """Return a note per implausible fact. Peaks are judged relative to fp32_tflops if that is plausible."""
    sizes = {fact: doubt for fact in _FACTS if (doubt := _implausible_size(gpu, fact))}
    alone = [doubt for fact, doubt in sizes.items() if fact not in _RELATIVE_TO_FP32]
    of_cores = () if set(_CORE_FACTS) & set(sizes) else tuple(_implausible_cores(gpu))
    is_fp32_odd = "fp32_tflops" in sizes or of_cores
    return (*alone, *of_cores, *(() if is_fp32_odd else _implausible_ratio(gpu, sizes)))


def _implausible_size(gpu: Gpu, fact: str) -> str | None:
    value = getattr(gpu, fact)
    others = [getattr(each, fact) for each in known_gpus() if getattr(each, fact) is not None]
    if value is None or not _is_far(value, others):
        return None
    return f"Check the unit: {fact} of {gpu.name} is {value:g}; known GPUs have {_range(others)}."


def _range(values: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{end:{'.3g' if end < 1000 else '.0f'}}" for end in (min(values), max(values)))
    return " to ".join(ends)


def _implausible_cores(gpu: Gpu) -> Iterator[str]:
    """Compare the cores per SM: a small GPU's facts times a thousand are plausible for a large GPU."""
    tflops, sms, boost_mhz = (getattr(gpu, fact) for fact in _CORE_FACTS)
    if None in (tflops, sms, boost_mhz):
        return
    cores = tflops * 1e6 / (2 * sms * boost_mhz)
    if not _FEWEST_CORES / _CORES_OFF <= cores <= _MOST_CORES * _CORES_OFF:
        yield (
            f"Check the units: fp32_tflops, sm_count and boost_mhz of {gpu.name} imply {cores:.3g} CUDA "
            f"cores per SM; GPUs have {_FEWEST_CORES} to {_MOST_CORES}."
        )


def _implausible_ratio(gpu: Gpu, sizes: Mapping[str, str]) -> Iterator[str]:
    """Compare peaks relative to fp32_tflops: a small GPU's facts are small, but in proportion."""
    for fact in _RELATIVE_TO_FP32:
        ratio = _ratio_to_fp32(gpu, fact)
        others = [each for known in known_gpus() if (each := _ratio_to_fp32(known, fact)) is not None]
        if ratio is None:
            yield from [sizes[fact]] if fact in sizes else []
        elif _is_far(ratio, others):
            yield sizes.get(fact) or (
                f"Check the unit: {fact} of {gpu.name} is {ratio:.3g} times its fp32_tflops; known GPUs have "
                f"{_range(others)} times."
            )


def _ratio_to_fp32(gpu: Gpu, fact: str) -> float | None:
    value: float | None = getattr(gpu, fact)
    return None if value is None or gpu.fp32_tflops is None else value / gpu.fp32_tflops


def _is_far(value: float, others: Sequence[float]) -> bool:
    return not min(others) / _FAR <= value <= max(others) * _FAR
