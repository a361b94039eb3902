"""What samples of latency say, how sure, and whether they are of one kind."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploykit.stats.estimate import CONFIDENCE, Estimate, are_disjoint
from deploykit.util.array_types import Float64Array
from deploykit.util.errors import DeployError

_Z, _Z_SURE = 1.96, 2.58  # of a normal distribution, standard deviations that hold 95 and 99 %
_RESAMPLES = 1000
_BEYOND = 10  # samples that lie beyond a percentile, so that it is one
_LEAST_RESAMPLED = 10  # samples: fewer hardly differ between resamples, whatever they come from

# A run is said to drift, or to have two modes, from here on: less is what a quiet machine shows too.
_DRIFT = 0.03
_LEAST = 100  # samples, to tell of either
_SMALLER_MODE = 0.1
_SEPARATION = 3.0
_VALLEY = 0.25

Statistic = Callable[[Float64Array], Float64Array]
"""Of each row of samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """Two kinds of samples.

    Attributes:
        low, high: their medians.
        share: of the slower, from 0 to 1.
    """

    low: float
    high: float
    share: float


def percentile(samples: Float64Array, percent: float) -> float:
    """What that percent of the samples stay at or under: an observed one, never interpolated."""
    return float(np.percentile(samples, percent, method="inverted_cdf"))


def row_percentile(percent: float) -> Statistic:
    """That of each row, as percentile() has it."""

    def found(rows: Float64Array) -> Float64Array:
        at = max(0, math.ceil(rows.shape[1] * percent / 100) - 1)
        ordered: Float64Array = np.partition(rows, at, axis=1)[:, at]
        return ordered

    return found


def required_samples(percent: float) -> int:
    """How many samples a percentile takes: 1,000 for the 99th, and for the first."""
    beyond = min(percent, 100 - percent) / 100
    return math.ceil(round(_BEYOND / beyond, 6)) if beyond else _BEYOND


def estimate_percentile(samples: Float64Array, percent: float) -> Estimate:
    """A percentile with its interval: order statistics that it lies between, whatever the distribution.

    Their ranks are the binomial's, spread as far as neighbours that are alike make samples count for less. An
    end is open where its rank lies beyond the samples, and on the tail's side of a percentile that takes more
    of them than there are, see samples_for.

    Raises:
        DeployError: there are no samples, or they aren't numbers.
    """
    return _order_statistics(_checked(samples), percent, z=_Z)


def _order_statistics(samples: Float64Array, percent: float, *, z: float) -> Estimate:
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
    """How much less sure the share of true ones is than that of as many independent ones; 1 for such."""
    variance = float(is_under.var())
    if block == 1 or variance == 0:
        return 1.0
    total = np.concatenate([[0], np.cumsum(is_under)])
    means = (total[block:] - total[:-block]) / block
    return max(1.0, block * float(means.var()) / variance)


def estimate_mean(samples: Float64Array, *, seed: int = 0) -> Estimate:
    """The mean with its interval, which fewer than ten samples leave open.

    Raises:
        DeployError: there are no samples, or they aren't numbers.
    """
    samples = _checked(samples)
    return _estimate(samples, float(samples.mean()), lambda rows: rows.mean(axis=1), seed=seed)


def bootstrap(samples: Float64Array, statistic: Statistic, *, seed: int) -> Float64Array:
    """The statistic of resamples, in blocks as long as neighbours are alike.

    References:
        Künsch 1989, the moving-block bootstrap; blocks by Carlstein 1986 for a first-order process.
    """
    generator = np.random.default_rng(seed)
    count, block = len(samples), block_length(samples)
    blocks = math.ceil(count / block)
    rows_at_once = max(1, 4_000_000 // count)  # 32 MB
    found = []
    for start in range(0, _RESAMPLES, rows_at_once):
        rows = min(rows_at_once, _RESAMPLES - start)
        begins = generator.integers(0, count - block + 1, (rows, blocks))
        picked = (begins[:, :, None] + np.arange(block)).reshape(rows, -1)[:, :count]
        found.append(statistic(samples[picked]))
    return np.concatenate(found)


def block_length(samples: Float64Array) -> int:
    """How many neighbours to keep together; 1 where they know nothing of each other."""
    count = len(samples)
    ranks = samples.argsort().argsort().astype(np.float64)  # outliers would hide what the others share
    ranks -= ranks.mean()
    power = float(ranks @ ranks)
    correlation = float(ranks[1:] @ ranks[:-1]) / power if power else 0.0
    if correlation < 3 / math.sqrt(count):
        return 1
    correlation = min(correlation, 0.99)
    length = (math.sqrt(6) * correlation / (1 - correlation**2)) ** (2 / 3) * count ** (1 / 3)
    return max(1, min(int(length), count // 10))


def detect_drift(samples: Float64Array) -> float | None:
    """By what part the median rose (fell, below 0) from the first third to the last; None for steady runs."""
    if len(samples) < _LEAST:
        return None
    third = len(samples) // 3
    first, last = (_order_statistics(part, 50, z=_Z_SURE) for part in (samples[:third], samples[-third:]))
    change = last.value / first.value - 1
    return change if are_disjoint(first, last) and abs(change) >= _DRIFT else None


def detect_modes(samples: Float64Array) -> Modes | None:
    """The two kinds of samples, where there are two: far apart, both frequent, with a valley between them.

    References:
        Otsu 1979 for the split; Ashman, Bird and Zepf 1994 for the distance, in standard deviations.
    """
    if len(samples) < _LEAST:
        return None
    ordered = np.sort(samples)
    ordered = ordered[: max(2, round(0.99 * len(ordered)))]  # stragglers are no mode
    at = _otsu(ordered)
    low, high = ordered[:at], ordered[at:]
    share = len(high) / len(ordered)
    if not _SMALLER_MODE <= share <= 1 - _SMALLER_MODE:
        return None
    spread = math.sqrt(float(low.var() + high.var()) / 2)
    distance = float(high.mean() - low.mean())
    if distance < _SEPARATION * spread or not _has_valley(low, high):
        return None
    return Modes(low=float(np.median(low)), high=float(np.median(high)), share=share)


def _otsu(ordered: Float64Array) -> int:
    """Where to cut so that the parts differ most: the largest variance between them."""
    count = np.arange(1, len(ordered))
    total = np.cumsum(ordered)
    below, above = total[:-1] / count, (total[-1] - total[:-1]) / (len(ordered) - count)
    between: Float64Array = count * (len(ordered) - count) * (above - below) ** 2
    return 1 + int(np.argmax(between).item())


def _has_valley(low: Float64Array, high: Float64Array) -> bool:
    """Whether few samples lie between the two parts' medians, for how many lie around these."""
    left, right = float(np.median(low)), float(np.median(high))
    both, third = np.concatenate([low, high]), (right - left) / 3
    middle = int(((both > left + third) & (both < right - third)).sum())
    return middle < _VALLEY * min(len(low), len(high))


def _estimate(samples: Float64Array, value: float, statistic: Statistic, *, seed: int) -> Estimate:
    if len(samples) < _LEAST_RESAMPLED:
        return Estimate(value=value, low=None, high=None)
    return bootstrap_interval(bootstrap(samples, statistic, seed=seed), value)


def bootstrap_interval(found: Float64Array, value: float) -> Estimate:
    """The value, and what 95 % of those found lie between."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    return Estimate(value=value, low=float(low), high=float(high))


def estimate_ratio(
    first: Float64Array, second: Float64Array, statistic: Statistic, *, least: int
) -> Estimate:
    """The statistic of the second samples over that of the first, by resampling both.

    Args:
        least: samples of each that it takes; with fewer both ends are open.
    """
    value = float(statistic(second[None, :])[0] / statistic(first[None, :])[0])
    if min(len(first), len(second)) < max(least, _LEAST_RESAMPLED):
        return Estimate(value=value, low=None, high=None)
    of_first, of_second = (bootstrap(each, statistic, seed=at) for at, each in enumerate((first, second)))
    return bootstrap_interval(of_second / of_first, value)


def _checked(samples: Float64Array) -> Float64Array:
    samples = np.asarray(samples, np.float64)
    if not len(samples) or not np.isfinite(samples).all():
        raise DeployError(
            "These samples are none, or not all numbers.", code="samples-invalid", fix="measure again"
        )
    return samples
