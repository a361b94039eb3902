"""The catalogue of GPUs: facts from datasheets, found by the names that people use."""

import difflib
import re
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

from deploykit.util.errors import DeployError

THIS_MACHINE = ("cpu", "local")
"""Names that mean this machine rather than a GPU model."""
_BRANDS = re.compile(r"nvidia|tesla|geforce|quadro")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU model. A fact without a source is None, never a guess.

    Attributes:
        name: NVIDIA's name, with the variant if there are several.
        architecture: For example `Turing`.
        source: Where the facts come from.
        aliases: Other names for the same GPU.
        compute_capability: For example `7.5`.
        sm_count: Number of streaming multiprocessors.
        boost_mhz: Boost clock, to which the peaks refer.
        mode_mhz: Maximum clock of its power mode, whatever the load.
        sustained_mhz: Clock under load within the power limit, if it has been observed.
        memory_gb: Memory size.
        memory_bandwidth_gb_s: Peak memory bandwidth, 1e9 bytes per second.
        l2_mb: Size of the level-2 cache.
        tdp_w: Board power limit.
        fp32_tflops: Peak of the CUDA cores.
        fp16_tensor_tflops: Dense peak of the tensor cores with FP32 accumulation.
        int8_tensor_tops: Dense peak of the tensor cores.
        int8_dp4a_tops: Peak of the CUDA cores' INT8 dot product, for GPUs whose tensor cores lack INT8.
    """

    name: str
    architecture: str
    source: str
    aliases: tuple[str, ...] = ()
    compute_capability: str | None = None
    sm_count: float | None = None
    boost_mhz: float | None = None
    mode_mhz: float | None = None
    sustained_mhz: float | None = None
    memory_gb: float | None = None
    memory_bandwidth_gb_s: float | None = None
    l2_mb: float | None = None
    tdp_w: float | None = None
    fp32_tflops: float | None = None
    fp16_tensor_tflops: float | None = None
    int8_tensor_tops: float | None = None
    int8_dp4a_tops: float | None = None

    @property
    def sm(self) -> int | None:
        """Compute capability as an integer: 75 for 7.5."""
        return int(self.compute_capability.replace(".", "")) if self.compute_capability else None


TEXT_FACTS = ("architecture", "source", "compute_capability")
NUMERIC_FACTS = tuple(
    field.name for field in fields(Gpu) if field.name not in ("name", "aliases", *TEXT_FACTS)
)


@cache
def known_gpus() -> tuple[Gpu, ...]:
    """Return every GPU of gpus.toml, in the order of the file."""
    text = resources.files("deploykit.gpu_catalog").joinpath("gpus.toml").read_text(encoding="utf-8")
    return tuple(_from_table(name, table) for name, table in tomllib.loads(text).items())


def look_up_gpu(name: str) -> Gpu | None:
    """Return the GPU with this name, see find_gpu, or None."""
    return _by_key().get(normalize_gpu_name(name))


def find_gpu(name: str) -> Gpu:
    """Return the GPU with this name. Case, spaces, dashes and brand names are ignored.

    A name that several variants share means the variant that lists it as an alias: `A100` is the SXM4 40GB.

    Raises:
        DeployError: No GPU has this name.
    """
    gpu = look_up_gpu(name)
    if gpu is None:
        raise DeployError(
            f"No GPU named {name!r} is known.",
            code="unknown-gpu",
            fix=f"use one of the nearest names: {', '.join(_nearest(name))}; deploykit gpus lists all GPUs",
        )
    return gpu


def normalized_names(gpu: Gpu) -> frozenset[str]:
    """Return all names of a GPU, normalized, see normalize_gpu_name."""
    return frozenset(map(normalize_gpu_name, (gpu.name, *gpu.aliases)))


def normalized_synonyms(name: str) -> frozenset[str]:
    """Return the normalized name, and those of the known GPU that it means, if any."""
    gpu = look_up_gpu(name)
    return frozenset({normalize_gpu_name(name)}) | (normalized_names(gpu) if gpu is not None else frozenset())


def require_facts(gpu: Gpu, *facts: str) -> tuple[float, ...]:
    """Return facts of a GPU.

    Args:
        gpu: The GPU.
        facts: Attribute names of Gpu.

    Returns:
        Their values, in order.

    Raises:
        DeployError: A fact is unknown.
    """
    values = tuple(getattr(gpu, fact) for fact in facts)
    missing = list(dict.fromkeys(fact for fact, value in zip(facts, values, strict=True) if value is None))
    if missing:
        known = ", ".join(_with_facts(facts, like=gpu))
        raise DeployError(
            f"A prediction for the {gpu.name} lacks these facts: {', '.join(missing)}.",
            code="gpu-facts-missing",
            fix=f"add them with --gpu-file, measure with deploykit bench, or use a known GPU: {known}",
        )
    return values


def _from_table(name: str, table: dict[str, Any]) -> Gpu:
    return Gpu(name=name, **table | {"aliases": tuple(table.get("aliases", ()))})


@cache
def _by_key() -> dict[str, Gpu]:
    return {normalize_gpu_name(name): gpu for gpu in known_gpus() for name in (gpu.name, *gpu.aliases)}


def normalize_gpu_name(name: str) -> str:
    """Return the letters and digits of a GPU's name, in any script, in lower case and without brands."""
    return "".join(filter(str.isalnum, _BRANDS.sub("", name.casefold())))


def _nearest(name: str) -> list[str]:
    keys = difflib.get_close_matches(normalize_gpu_name(name), _by_key(), n=6, cutoff=0.3)
    names = dict.fromkeys(_by_key()[key].name for key in keys)
    return list(names)[:3] or [gpu.name for gpu in known_gpus()[:3]]


def _with_facts(facts: tuple[str, ...], *, like: Gpu) -> list[str]:
    """Return the names of up to three GPUs that have all the facts, preferring the same architecture."""
    complete = [gpu for gpu in known_gpus() if all(getattr(gpu, fact) is not None for fact in facts)]
    complete.sort(key=lambda gpu: gpu.architecture != like.architecture)
    return [gpu.name for gpu in complete[:3]]
