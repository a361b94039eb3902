"""Block bootstrap of samples that may be correlated with their neighbours."""

import math
from collections.abc import Callable

import numpy as np

from deploykit.stats.estimate import CONFIDENCE, Estimate
from deploykit.util.array_types import Float64Array
from deploykit.util.errors import DeployError

_RESAMPLES = 1000
_MIN_SAMPLES = 10  # the resamples of fewer samples hardly differ, whatever the distribution

Statistic = Callable[[Float64Array], Float64Array]
"""A statistic of each row: (rows, samples) -> (rows,)."""


def estimate_mean(samples: Float64Array, *, seed: int = 0) -> Estimate:
    """Estimate the mean. With fewer than ten samples, both ends of the interval are open.

    Args:
        samples: (n,), in the order in which they were taken.
        seed: Of the resampling.

    Raises:
        DeployError: There are no samples, or they are not all finite numbers.
    """
    samples = check_samples(samples)
    value = float(samples.mean())
    if len(samples) < _MIN_SAMPLES:
        return Estimate(value=value, low=None, high=None)
    return bootstrap_interval(bootstrap(samples, lambda rows: rows.mean(axis=1), seed=seed), value)


def estimate_ratio(
    first: Float64Array, second: Float64Array, statistic: Statistic, *, least: int
) -> Estimate:
    """Estimate the statistic of the second samples over that of the first, by resampling both.

    Args:
        first, second: (n,), in the order in which they were taken.
        statistic: For example a percentile of each row.
        least: Minimum number of samples of each; with fewer, both ends of the interval are open.
    """
    value = float(statistic(second[None, :])[0] / statistic(first[None, :])[0])
    if min(len(first), len(second)) < max(least, _MIN_SAMPLES):
        return Estimate(value=value, low=None, high=None)
    of_first, of_second = (bootstrap(each, statistic, seed=at) for at, each in enumerate((first, second)))
    return bootstrap_interval(of_second / of_first, value)


def bootstrap(samples: Float64Array, statistic: Statistic, *, seed: int) -> Float64Array:
    """Return the statistic of 1,000 resamples, drawn in blocks as long as the correlation of neighbours.

    Args:
        samples: (n,), in the order in which they were taken.
        statistic: Computed of each resample.
        seed: Of the resampling.

    Returns:
        (1000,).

    References:
        Künsch 1989, the moving-block bootstrap; block length by Carlstein 1986 for a first-order process.
    """
    generator = np.random.default_rng(seed)
    count, block = len(samples), block_length(samples)
    blocks = math.ceil(count / block)
    rows_at_once = max(1, 4_000_000 // count)  # 32 MB
    parts = []
    for start in range(0, _RESAMPLES, rows_at_once):
        rows = min(rows_at_once, _RESAMPLES - start)
        begins = generator.integers(0, count - block + 1, (rows, blocks))
        picked = (begins[:, :, None] + np.arange(block)).reshape(rows, -1)[:, :count]
        parts.append(statistic(samples[picked]))
    return np.concatenate(parts)


def bootstrap_interval(resampled: Float64Array, value: float) -> Estimate:
    """Return the value with the interval that contains 95 % of the resampled values."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Estimate(value=value, low=float(low), high=float(high))


def block_length(samples: Float64Array) -> int:
    """Return how many neighbouring samples to keep together; 1 if they are uncorrelated."""
    count = len(samples)
    ranks = samples.argsort().argsort().astype(np.float64)  # outliers would hide the correlation
    ranks -= ranks.mean()
    power = float(ranks @ ranks)
    correlation = float(ranks[1:] @ ranks[:-1]) / power if power else 0.0
    if correlation < 3 / math.sqrt(count):
        return 1
    correlation = min(correlation, 0.99)
    length = (math.sqrt(6) * correlation / (1 - correlation**2)) ** (2 / 3) * count ** (1 / 3)
    return max(1, min(int(length), count // 10))


def check_samples(samples: Float64Array) -> Float64Array:
    """Return the samples as float64.

    Raises:
        DeployError: There are no samples, or they are not all finite numbers.
    """
    samples = np.asarray(samples, np.float64)
    if not len(samples) or not np.isfinite(samples).all():
        problem = "There are no samples." if not len(samples) else "Some samples are NaN or infinite."
        raise DeployError(problem, code="samples-invalid", fix="measure again with deploykit bench")
    return samples
