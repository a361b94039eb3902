"""Calibration methods: from an activation's statistics to the largest magnitude that INT8 represents.

- `max`: the largest magnitude seen.
- `percentile`: the magnitude that a percentage of all values does not exceed.
- `peak-percentile`: the magnitude that the peaks of a percentage of the images do not exceed. In published
  EfficientNets one image in fifty has activations fifty times the usual. Then a percentile of values means
  something different in every layer, while this one excludes the same images in each.
- `entropy`: the clipping point whose quantized distribution is nearest to the real one, by
  Kullback-Leibler divergence.
- `mse`: the clipping point with the smallest expected squared error of rounding and clipping together.

References:
    Wu et al., "Integer quantization for deep learning inference", 2020, section 3.3: max,
    percentile and entropy. Migacz, "8-bit inference with TensorRT", GTC 2017: entropy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from deploykit.quantize.calibration.histogram import BINS, Counts, Histogram
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics
from deploykit.util.array_types import Float64Array
from deploykit.util.errors import DeployError

MethodName = Literal["max", "percentile", "peak-percentile", "entropy", "mse"]
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
DEFAULT_PERCENT = {"percentile": 99.999, "peak-percentile": 97.0}

_LEVELS = 128  # magnitudes of INT8, including zero
_MIN_PROBABILITY = 1e-12  # of a used bin to which quantization assigns no probability
_CANDIDATES = 256  # clipping points to try, evenly spread over the bins in use


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationMethod:
    """How to read a range off statistics.

    Attributes:
        percent: For the two percentile methods; None for the others.
    """

    name: MethodName
    percent: Annotated[float, Meta(gt=50, le=100)] | None = None

    def __post_init__(self) -> None:
        if (self.percent is None) != (self.name not in DEFAULT_PERCENT):
            raise ValueError(f"method {self.name} with percentile {self.percent}")

    def __str__(self) -> str:
        return self.name if self.percent is None else f"{self.name} {self.percent:g}"

    def amax(self, statistics: TensorStatistics) -> float:
        """Return the magnitude that INT8's 127 stands for, at most the largest seen."""
        return min(_READERS[self.name](statistics, self.percent or 100.0), statistics.amax)


def named_method(name: str, percent: float | None = None) -> CalibrationMethod:
    """Return the method with this name.

    Args:
        name: One of METHOD_NAMES.
        percent: For the percentile methods, above 50 and up to 100; None for the method's default.

    Raises:
        DeployError: The name is unknown, or the percentile is invalid or not applicable.
    """
    if name not in METHOD_NAMES:
        raise DeployError(
            f"Unknown calibration method {name}.",
            code="unknown-calibration-method",
            fix=f"use one of {', '.join(METHOD_NAMES)}, or auto",
        )
    default = DEFAULT_PERCENT.get(name)
    if percent is not None and default is None:
        raise DeployError(
            f"Method {name} does not use a percentile.",
            code="option-not-applicable",
            fix="remove --percentile",
        )
    if percent is not None and not 50 < percent <= 100:  # true for NaN too
        raise DeployError(
            f"A percentile of {percent:g} is outside the range above 50 and up to 100.",
            code="invalid-percentile",
            fix="give, for example, --percentile 99.99",
        )
    return CalibrationMethod(name=name, percent=default if percent is None else float(percent))


def _entropy(histogram: Histogram) -> float:
    """Sums over bins are differences of cumulative sums, so that all candidates are judged in one pass."""
    counts = histogram.counts
    ends = _clipping_points(counts)
    if not len(ends):
        return 0.0
    total, kept = counts.sum(), _cumulative(counts)[ends]
    edges = -(-np.arange(_LEVELS + 1) * ends[:, None] // _LEVELS)  # bin edges of each candidate's levels
    in_level = np.diff(_cumulative(counts)[edges])
    used_in_level = np.diff(_cumulative(counts > 0)[edges])
    q = in_level / np.maximum(used_in_level, 1) / np.maximum(kept, 1)[:, None]  # of each used bin in a level
    log_q = np.log(np.maximum(q, _MIN_PROBABILITY))
    last, tail = counts[ends - 1], total - kept  # clipped values count in the last bin
    log_q_last = np.where(last > 0, log_q[:, -1], math.log(_MIN_PROBABILITY))
    p_log_p = _cumulative(_n_log_n(counts))[ends] - _n_log_n(last) + _n_log_n(last + tail)
    p_log_q = (in_level * log_q).sum(axis=1) + tail * log_q_last
    divergence = p_log_p - p_log_q  # up to a constant
    return float(ends[int(np.argmin(divergence))] * histogram.bin_width)


def _mse(histogram: Histogram) -> float:
    counts, width = histogram.counts.astype(np.float64), histogram.bin_width
    ends = _clipping_points(histogram.counts)
    if not len(ends):
        return 0.0
    centres = (np.arange(BINS) + 0.5) * width
    limits = ends * width
    inside = _cumulative(counts)[ends]
    over, over_first, over_second = (
        moment.sum() - _cumulative(moment)[ends]
        for moment in (counts, counts * centres, counts * np.square(centres))
    )
    clipping = over_second - 2 * limits * over_first + np.square(limits) * over
    rounding = inside * np.square(limits / (_LEVELS - 1)) / 12
    return float(limits[int(np.argmin(clipping + rounding))])


def _cumulative(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array with the sum of the first i values at index i."""
    return np.concatenate([[0], np.cumsum(values)])


def _n_log_n(counts: Counts) -> Float64Array:
    return np.asarray(counts * np.log(np.maximum(counts, 1)), np.float64)


def _clipping_points(counts: Counts) -> Counts:
    """Return the bin ends to try, from the first _LEVELS bins to the last one in use."""
    used = np.flatnonzero(counts)
    if not len(used):
        return np.zeros(0, np.int64)
    last = int(used[-1]) + 1
    first = min(_LEVELS, last)
    return np.unique(np.linspace(first, last, min(_CANDIDATES, last - first + 1)).astype(np.int64))


_READERS: dict[MethodName, Callable[[TensorStatistics, float], float]] = {
    "max": lambda statistics, percent: statistics.amax,
    "percentile": lambda statistics, percent: statistics.values.percentile(percent),
    "peak-percentile": lambda statistics, percent: statistics.peaks.percentile(percent),
    "entropy": lambda statistics, percent: _entropy(statistics.values),
    "mse": lambda statistics, percent: _mse(statistics.values),
}
