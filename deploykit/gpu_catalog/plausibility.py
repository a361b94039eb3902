"""Check the facts of a GPU for implausible values, which suggest a wrong unit."""

from collections.abc import Iterator, Mapping, Sequence

from deploykit.gpu_catalog.gpus import NUMERIC_FACTS, Gpu, known_gpus

_FAR = 10.0  # a factor beyond all known GPUs that suggests a wrong unit
# FP32 cores per SM. Source: CUDA C++ Programming Guide, compute capabilities; 192 for Kepler.
_FEWEST_CORES, _MOST_CORES = 64, 192
# A factor beyond that range suggests a wrong unit. An H100 SXM5 is off by 1.08: it has two boost clocks.
_CORES_OFF = 1.5
_CORE_FACTS = ("fp32_tflops", "sm_count", "boost_mhz")
_RELATIVE_TO_FP32 = ("memory_bandwidth_gb_s", "fp16_tensor_tflops", "int8_tensor_tops", "int8_dp4a_tops")


def implausible_facts(gpu: Gpu) -> tuple[str, ...]:
    """Return a note per implausible fact. Peaks are judged relative to fp32_tflops if that is plausible."""
    sizes = {fact: note for fact in NUMERIC_FACTS if (note := _check_size(gpu, fact))}
    alone = [note for fact, note in sizes.items() if fact not in _RELATIVE_TO_FP32]
    of_cores = () if set(_CORE_FACTS) & set(sizes) else tuple(_check_cores(gpu))
    is_fp32_odd = "fp32_tflops" in sizes or of_cores
    return (*alone, *of_cores, *(() if is_fp32_odd else _check_ratios(gpu, sizes)))


def _check_size(gpu: Gpu, fact: str) -> str | None:
    value = getattr(gpu, fact)
    others = [getattr(each, fact) for each in known_gpus() if getattr(each, fact) is not None]
    if value is None or not _is_far(value, others):
        return None
    return f"Check the unit: {fact} of {gpu.name} is {value:g}; known GPUs have {_range(others)}."


def _range(values: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{end:{'.3g' if end < 1000 else '.0f'}}" for end in (min(values), max(values)))
    return " to ".join(ends)


def _check_cores(gpu: Gpu) -> Iterator[str]:
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


def _check_ratios(gpu: Gpu, sizes: Mapping[str, str]) -> Iterator[str]:
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
