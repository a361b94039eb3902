"""GPUs as data: what their datasheets say, and finding one by the name people use."""

import difflib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from deploykit.util.errors import DeployError

THIS_MACHINE = ("cpu", "local")
"""What means no GPU by its name, but what is here."""
_BRANDS = re.compile(r"nvidia|tesla|geforce|quadro")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU model. A fact that no source gave is None, never a guess.

    Attributes:
        name: as NVIDIA writes it, with the variant where variants differ.
        architecture: `Turing`, ...
        source: where the facts come from.
        aliases: other names it answers to.
        compute_capability: `7.5`.
        sm_count: streaming multiprocessors.
        boost_mhz: boost clock, at which the peaks are.
        mode_mhz: clock that its power mode allows at most, whatever the load.
        sustained_mhz: clock that the power limit leaves under load, where somebody saw it.
        memory_gb: memory size.
        memory_bandwidth_gb_s: peak memory bandwidth, 1e9 bytes a second.
        l2_mb: level-2 cache.
        tdp_w: board power limit.
        fp32_tflops: peak of the CUDA cores.
        fp16_tensor_tflops: dense peak of the tensor cores, FP32 accumulation.
        int8_tensor_tops: dense peak of the tensor cores.
        int8_dp4a_tops: peak of the CUDA cores' INT8 dot product, given where no tensor core has INT8.
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
        """Compute capability as compilers write it: 75 for 7.5."""
        return int(self.compute_capability.replace(".", "")) if self.compute_capability else None


@cache
def known_gpus() -> tuple[Gpu, ...]:
    """Every GPU of gpus.toml, in its order."""
    text = resources.files("deploykit.gpu_catalog").joinpath("gpus.toml").read_text(encoding="utf-8")
    return tuple(_from_table(name, table) for name, table in tomllib.loads(text).items())


def look_up_gpu(name: str) -> Gpu | None:
    """The GPU people mean by `name`, see find_gpu; None where none is called that."""
    return _by_key().get(normalize_gpu_name(name))


def find_gpu(name: str) -> Gpu:
    """The GPU people mean by `name`: case, spaces, dashes and brand names make no difference.

    A name that several variants share means the one that lists it as an alias: `A100` is the SXM4 40GB.

    Raises:
        DeployError: none is called that.
    """
    gpu = look_up_gpu(name)
    if gpu is None:
        raise DeployError(
            f"No GPU named {name!r} is known.",
            code="unknown-gpu",
            fix=f"use one of the nearest: {', '.join(_nearest(name))}; deploykit gpus lists all",
        )
    return gpu


def normalized_names(gpu: Gpu) -> frozenset[str]:
    """The keys of all its names, see key_of."""
    return frozenset(map(normalize_gpu_name, (gpu.name, *gpu.aliases)))


def normalized_synonyms(name: str) -> frozenset[str]:
    """The key of `name`, with those of the known GPU that it means, if any."""
    gpu = look_up_gpu(name)
    return frozenset({normalize_gpu_name(name)}) | (normalized_names(gpu) if gpu is not None else frozenset())


def require_facts(gpu: Gpu, *facts: str) -> tuple[float, ...]:
    """The values of `facts` (attribute names of Gpu), in order.

    Raises:
        DeployError: a fact is unknown.
    """
    values = tuple(getattr(gpu, fact) for fact in facts)
    missing = list(dict.fromkeys(fact for fact, value in zip(facts, values, strict=True) if value is None))
    if missing:
        known = ", ".join(_with_facts(facts, like=gpu))
        raise DeployError(
            f"Too little is known of the {gpu.name} for a prediction: {', '.join(missing)}.",
            code="gpu-facts-missing",
            fix=f"give them in a --gpu-file, measure with deploykit bench, or take a known one: {known}",
        )
    return values


def _from_table(name: str, table: dict[str, Any]) -> Gpu:
    return Gpu(name=name, **table | {"aliases": tuple(table.get("aliases", ()))})


@cache
def _by_key() -> dict[str, Gpu]:
    return {normalize_gpu_name(name): gpu for gpu in known_gpus() for name in (gpu.name, *gpu.aliases)}


def normalize_gpu_name(name: str) -> str:
    """What is alike in the names that people give a GPU: letters and digits of any script, but for brands."""
    return "".join(filter(str.isalnum, _BRANDS.sub("", name.casefold())))


def _nearest(name: str) -> list[str]:
    keys = difflib.get_close_matches(normalize_gpu_name(name), _by_key(), n=6, cutoff=0.3)
    names = dict.fromkeys(_by_key()[key].name for key in keys)
    return list(names)[:3] or [gpu.name for gpu in known_gpus()[:3]]


def _with_facts(facts: tuple[str, ...], *, like: Gpu) -> list[str]:
    """Up to three GPUs that have all the facts, those of the same architecture first."""
    complete = [gpu for gpu in known_gpus() if all(getattr(gpu, fact) is not None for fact in facts)]
    complete.sort(key=lambda gpu: gpu.architecture != like.architecture)
    return [gpu.name for gpu in complete[:3]]
