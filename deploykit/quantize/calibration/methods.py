"""From an activation's statistics to the largest magnitude INT8 shall hold: the calibration methods.

- `max`: the largest magnitude seen.
- `percentile`: what so many percent of all magnitudes stay under.
- `peak-percentile`: what so many percent of the images' largest magnitudes stay under. One image in
  fifty may have activations fifty times the usual, as published EfficientNets do; then no percentile
  of values means the same in two layers, while this one leaves out those images in each.
- `entropy`: the clipped and quantized distribution nearest to the real one, by Kullback-Leibler.
- `mse`: the smallest expected squared error of rounding and clipping together.

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

from deploykit.quantize.calibration.histogram import BINS, Histogram
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics
from deploykit.util.errors import DeployError

MethodName = Literal["max", "percentile", "peak-percentile", "entropy", "mse"]
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
DEFAULT_PERCENT = {"percentile": 99.999, "peak-percentile": 97.0}

_LEVELS = 128  # magnitudes that INT8 tells apart, zero included
_LEAST_PROBABILITY = 1e-12  # of a bin with counts that lie all beyond it
_CANDIDATES = 256  # of clipping points, evenly spread over the bins in use

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationMethod:
    """A way to read a range off statistics.

    Attributes:
        percent: of the two percentile methods; None with the others.
    """

    name: MethodName
    percent: Annotated[float, Meta(gt=50, le=100)] | None = None

    def __post_init__(self) -> None:
        if (self.percent is None) != (self.name not in DEFAULT_PERCENT):
            raise ValueError(f"method {self.name} with percentile {self.percent}")

    def __str__(self) -> str:
        return self.name if self.percent is None else f"{self.name} {self.percent:g}"

    def amax(self, statistics: TensorStatistics) -> float:
        """The magnitude that INT8's 127 stands for; at most the largest seen."""
        return min(_READERS[self.name](statistics, self.percent or 100.0), statistics.amax)


def named_method(name: str, percent: float | None = None) -> CalibrationMethod:
    """The method of that name, with its usual percentile where none is given.

    Raises:
        DeployError: a percentile where none belongs, or one that is none.
    """
    if name not in METHOD_NAMES:
        raise DeployError(
            f"There is no method {name}.",
            code="unknown-calibration-method",
            fix=f"take one of {', '.join(METHOD_NAMES)}, or auto",
        )
    usual = DEFAULT_PERCENT.get(name)
    if percent is not None and usual is None:
        raise DeployError(
            f"Method {name} has no percentile.", code="option-not-applicable", fix="leave out --percentile"
        )
    if percent is not None and not 50 < percent <= 100:  # true for NaN too
        raise DeployError(
            f"A percentile of {percent:g} is no range.",
            code="invalid-percentile",
            fix="give --percentile 99.99, say",
        )
    return CalibrationMethod(name=name, percent=usual if percent is None else float(percent))


def _entropy(histogram: Histogram) -> float:
    """Sums over bins are differences of cumulative sums, so that all candidates are judged at once."""
    counts = histogram.counts
    ends = _clipping_points(counts)
    if not len(ends):
        return 0.0
    total, kept = counts.sum(), _cumulative(counts)[ends]
    edges = -(-np.arange(_LEVELS + 1) * ends[:, None] // _LEVELS)  # of each candidate's levels, in bins
    in_level = np.diff(_cumulative(counts)[edges])
    used_in_level = np.diff(_cumulative(counts > 0)[edges])
    q = in_level / np.maximum(used_in_level, 1) / np.maximum(kept, 1)[:, None]  # of each used bin in a level
    log_q = np.log(np.maximum(q, _LEAST_PROBABILITY))
    last, tail = counts[ends - 1], total - kept  # what is clipped adds to the last bin
    log_q_last = np.where(last > 0, log_q[:, -1], math.log(_LEAST_PROBABILITY))
    p_log_p = _cumulative(_n_log_n(counts))[ends] - _n_log_n(last) + _n_log_n(last + tail)
    p_log_q = (in_level * log_q).sum(axis=1) + tail * log_q_last
    return float(ends[int(np.argmin(p_log_p - p_log_q))] * histogram.bin_width)  # but for a constant


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
    """At index i the sum of the i first values."""
    return np.concatenate([[0], np.cumsum(values)])


def _n_log_n(counts: Counts) -> npt.NDArray[np.float64]:
    return np.asarray(counts * np.log(np.maximum(counts, 1)), np.float64)


def _clipping_points(counts: Counts) -> Counts:
    """Ends of bins to try: from the first _LEVELS bins to the last one in use."""
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
