"""GPUs that a user describes in a file, as gpus.toml does."""

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
_FIX = "write facts as deploykit/gpu_catalog/gpus.toml has them: docs/fit.md shows an example"
_FAR = 10.0  # times beyond all GPUs that are known: likely another unit
# Orders of magnitude beyond any GPU, in any fact; within them every prediction is a finite number.
_LOW, _HIGH = 1e-6, 1e9
# FP32 cores of an SM. Source: CUDA C++ Programming Guide, compute capabilities; 192 in Kepler.
_FEWEST_CORES, _MOST_CORES = 64, 192
_CORES_OFF = (
    1.5  # times fewer or more: likely another unit; an H100 SXM5 is off by 1.08, by its two boost clocks
)
_CORE_FACTS = ("fp32_tflops", "sm_count", "boost_mhz")
# Of what is known of a GPU, what no longer holds where a file has the first.
_OUTDATES = {"tdp_w": "sustained_mhz", "int8_tensor_tops": "int8_dp4a_tops"}
_BESIDE_FP32 = ("memory_bandwidth_gb_s", "fp16_tensor_tflops", "int8_tensor_tops", "int8_dp4a_tops")


def read_gpu_file(path: Path) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The GPUs it describes, and a sentence for each that takes a known one's place or has an odd fact.

    Raises:
        DeployError: no such file, no TOML, no GPU in it, or a fact that is none.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(
            f"{path} can't be read: {error}.", code="file-unreadable", fix="give a TOML file with --gpu-file"
        ) from error
    except ValueError as error:  # of the syntax, or an integer of thousands of digits
        raise DeployError(f"{path} is no TOML: {error}.", code="gpu-file-invalid", fix=_FIX) from error
    except RecursionError as error:
        raise DeployError(f"{path} nests brackets too deeply.", code="gpu-file-invalid", fix=_FIX) from error
    if not tables:
        raise DeployError(f"{path} describes no GPU.", code="gpu-file-invalid", fix=_FIX)
    gpus = tuple(_gpu(path, name, table) for name, table in tables.items())
    for gpu, other in itertools.combinations(gpus, 2):
        if normalized_names(gpu) & normalized_names(other):
            raise DeployError(
                f"{path} has {gpu.name} and {other.name}, which answer to one name.",
                code="gpu-file-invalid",
                fix="name them apart, by more than case, spaces, dashes or a brand",
            )
    return gpus, tuple(sentence for gpu in gpus for sentence in (*_hidden(gpu, path), *_doubts(gpu)))


def _gpu(path: Path, name: str, table: Any) -> Gpu:
    if not isinstance(table, dict):
        raise DeployError(
            f"{path} has {name} outside of a table.",
            code="gpu-file-invalid",
            fix='write the GPU\'s name above it, as ["My GPU"]',
        )
    if unknown := [fact for fact in table if fact not in (*_TEXTS, *_FACTS, "aliases")]:
        raise DeployError(
            f"{path}: nobody knows the fact {unknown[0]} of {name}.", code="gpu-file-invalid", fix=_FIX
        )
    for fact in _FACTS:
        if fact in table and (fault := _fault(fact, table[fact])):
            raise DeployError(f"{path}: {fact} of {name} is {fault}.", code="gpu-file-invalid", fix=_FIX)
    try:
        gpu = from_builtins({"name": name, **_left_out(name, table), "source": str(path), **table}, Gpu)
    except ValueError as error:
        raise DeployError(
            f"{path}: {name} is not described as a GPU is: {error}.", code="gpu-file-invalid", fix=_FIX
        ) from error
    for each in (gpu.name, *gpu.aliases):
        if fault := _unfit_name(each):
            raise DeployError(
                f"{path} calls a GPU {each!r}, {fault}.",
                code="gpu-file-invalid",
                fix='name it as in ["My GPU"]',
            )
    if gpu.compute_capability is not None and not re.fullmatch(r"\d+\.\d", gpu.compute_capability):
        raise DeployError(
            f"{path}: compute_capability of {name} is {gpu.compute_capability!r}.",
            code="gpu-file-invalid",
            fix='write it as "8.9"',
        )
    return gpu


def _left_out(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """What a table needn't say of a GPU that is known by its name."""
    known = look_up_gpu(name)
    if known is None:
        return {"architecture": "unknown"}
    outdated = {old for fact, old in _OUTDATES.items() if fact in table}
    facts = {fact: getattr(known, fact) for fact in (*_TEXTS, *_FACTS) if fact not in outdated}
    return {fact: value for fact, value in facts.items() if value is not None}


def _unfit_name(name: str) -> str | None:
    """Why --gpu can't name it so."""
    if not normalize_gpu_name(name):
        return "which has no letter or digit besides a brand"
    if normalize_gpu_name(name) in THIS_MACHINE:
        return "which means this machine"
    return "and commas separate GPUs" if "," in name else None


def _fault(fact: str, value: Any) -> str | None:
    """A value that is no fact, and why."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return f"{_shown(value)}, no finite number above 0"
    if not _LOW <= value <= _HIGH:
        return f"{_shown(value)}, which no GPU has: it must be {_LOW:g} to {_HIGH:g}"
    if fact == "sm_count" and value % 1:
        return f"{value!r}, no whole number"
    return None


def _shown(value: Any) -> str:
    """As written, but for integers of so many digits that Python doesn't write them."""
    is_long = isinstance(value, int) and value.bit_length() > 64
    return f"an integer of {value.bit_length()} bits" if is_long else repr(value)


def _hidden(gpu: Gpu, path: Path) -> Iterator[str]:
    completed = look_up_gpu(gpu.name)
    if completed is not None:
        yield (
            f"{gpu.name} is taken as {path} describes it; what that leaves out is that of the "
            f"{completed.name} that is known."
        )
    for known in known_gpus():
        hiding = [each for each in gpu.aliases if normalize_gpu_name(each) in normalized_names(known)]
        if hiding and known != completed:
            yield f"{hiding[0]} is taken as {path} describes it, not as the {known.name} that is known."


def _doubts(gpu: Gpu) -> tuple[str, ...]:
    """Of each fact; what stands beside fp32_tflops is judged by it where nothing is odd about that."""
    sizes = {fact: doubt for fact in _FACTS if (doubt := _odd_size(gpu, fact))}
    alone = [doubt for fact, doubt in sizes.items() if fact not in _BESIDE_FP32]
    of_cores = () if set(_CORE_FACTS) & set(sizes) else tuple(_odd_cores(gpu))
    is_fp32_odd = "fp32_tflops" in sizes or of_cores
    return (*alone, *of_cores, *(() if is_fp32_odd else _odd_beside(gpu, sizes)))


def _odd_size(gpu: Gpu, fact: str) -> str | None:
    value = getattr(gpu, fact)
    others = [getattr(each, fact) for each in known_gpus() if getattr(each, fact) is not None]
    if value is None or not _is_far(value, others):
        return None
    return f"{fact} of {gpu.name} is {value:g}, where known GPUs have {_range(others)}: is that the unit?"


def _range(values: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{end:{'.3g' if end < 1000 else '.0f'}}" for end in (min(values), max(values)))
    return " to ".join(ends)


def _odd_cores(gpu: Gpu) -> Iterator[str]:
    """Small GPUs' facts can be a thousand times off and yet of a size that large ones have."""
    tflops, sms, boost_mhz = (getattr(gpu, fact) for fact in _CORE_FACTS)
    if None in (tflops, sms, boost_mhz):
        return
    cores = tflops * 1e6 / (2 * sms * boost_mhz)
    if not _FEWEST_CORES / _CORES_OFF <= cores <= _MOST_CORES * _CORES_OFF:
        yield (
            f"fp32_tflops of {gpu.name} is {tflops:g}, which with its sm_count and boost_mhz makes "
            f"{cores:.3g} CUDA cores an SM, where GPUs have {_FEWEST_CORES} to {_MOST_CORES}: "
            "are those the units?"
        )


def _odd_beside(gpu: Gpu, sizes: Mapping[str, str]) -> Iterator[str]:
    """A small GPU's facts are small beside known ones', and in proportion."""
    for fact in _BESIDE_FP32:
        ratio = _beside_fp32(gpu, fact)
        others = [each for known in known_gpus() if (each := _beside_fp32(known, fact)) is not None]
        if ratio is None:
            yield from [sizes[fact]] if fact in sizes else []
        elif _is_far(ratio, others):
            yield sizes.get(fact) or (
                f"{fact} of {gpu.name} is {ratio:.3g} times its fp32_tflops, where known GPUs have "
                f"{_range(others)} times: is that the unit?"
            )


def _beside_fp32(gpu: Gpu, fact: str) -> float | None:
    value: float | None = getattr(gpu, fact)
    return None if value is None or gpu.fp32_tflops is None else value / gpu.fp32_tflops


def _is_far(value: float, others: Sequence[float]) -> bool:
    return not min(others) / _FAR <= value <= max(others) * _FAR
