"""Percentiles of latency samples, with confidence intervals."""

import math

import numpy as np
import numpy.typing as npt

from deploykit.stats.bootstrap import Statistic, block_length, check_samples
from deploykit.stats.estimate import Estimate
from deploykit.util.array_types import Float64Array

Z_95 = 1.96
"""Standard deviations of a normal distribution that contain 95 %."""

_SAMPLES_BEYOND = 10  # samples that must lie beyond a percentile


def percentile(samples: Float64Array, percent: float) -> float:
    """Return the smallest sample that at least this percentage of samples do not exceed.

    It is an observed value, never interpolated.
    """
    return float(np.percentile(samples, percent, method="inverted_cdf"))


def row_percentile(percent: float) -> Statistic:
    """Return the function that computes this percentile of each row, see percentile."""

    def compute(rows: Float64Array) -> Float64Array:
        at = max(0, math.ceil(rows.shape[1] * percent / 100) - 1)
        ordered: Float64Array = np.partition(rows, at, axis=1)[:, at]
        return ordered

    return compute


def required_samples(percent: float) -> int:
    """Return how many samples a percentile requires: 1,000 for the 99th, and for the first."""
    beyond = min(percent, 100 - percent) / 100
    return math.ceil(round(_SAMPLES_BEYOND / beyond, 6)) if beyond else _SAMPLES_BEYOND


def estimate_percentile(samples: Float64Array, percent: float) -> Estimate:
    """Estimate a percentile. The interval's ends are order statistics, valid for any distribution.

    Their ranks come from the binomial distribution, spread further if neighbours are correlated. An end is
    open if its rank lies beyond the samples, and on the tail's side if there are fewer samples than
    required_samples.

    Args:
        samples: (n,), in the order in which they were taken.
        percent: 0 to 100.

    Raises:
        DeployError: There are no samples, or they are not all finite numbers.
    """
    return order_statistics(check_samples(samples), percent, z=Z_95)


def order_statistics(samples: Float64Array, percent: float, *, z: float) -> Estimate:
    """Estimate a percentile at another confidence, see estimate_percentile.

    Args:
        samples: (n,), finite, in the order in which they were taken.
        percent: 0 to 100.
        z: Standard deviations of a normal distribution that contain the confidence.
    """
    count, part, value = len(samples), percent / 100, percentile(samples, percent)
    spread = z * math.sqrt(count * part * (1 - part) * _inflation(samples <= value, block_length(samples)))
    ranks = count * part + 0.5 + np.array([-spread, spread])
    low, high = map(float, np.interp(ranks, np.arange(1, count + 1), np.sort(samples)))
    is_rough = count < required_samples(percent)
    return Estimate(
        value=value,
        low=None if ranks[0] < 1 or (is_rough and percent <= 50) else min(low, value),
        high=None if ranks[1] > count or (is_rough and percent >= 50) else max(high, value),
    )


def _inflation(is_under: npt.NDArray[np.bool_], block: int) -> float:
    """Return the variance of the share of true values, over that of independent values; at least 1."""
    variance = float(is_under.var())
    if block == 1 or variance == 0:
        return 1.0
    total = np.concatenate([[0], np.cumsum(is_under)])
    means = (total[block:] - total[:-block]) / block
    return max(1.0, block * float(means.var()) / variance)
