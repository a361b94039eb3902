"""Detect latency samples that drift or have two modes."""

import math
from dataclasses import dataclass

import numpy as np

from deploykit.stats.estimate import are_disjoint
from deploykit.stats.latency_percentiles import order_statistics
from deploykit.util.array_types import Float64Array

_Z_99 = 2.58  # standard deviations of a normal distribution that contain 99 %
_MIN_SAMPLES = 100
# Quiet machines stay below these limits.
_DRIFT = 0.03
_SMALLER_MODE = 0.1
_SEPARATION = 3.0
_VALLEY = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """Two modes of a distribution.

    Attributes:
        low: Median of the faster mode.
        high: Median of the slower mode.
        share: Share of the samples in the slower mode, from 0 to 1.
    """

    low: float
    high: float
    share: float


def detect_drift(samples: Float64Array) -> float | None:
    """Return the relative change of the median from the first third to the last, or None if it is steady.

    Args:
        samples: (n,), in the order in which they were taken. Fewer than 100 are never said to drift.

    Returns:
        Positive if the latency rises.
    """
    if len(samples) < _MIN_SAMPLES:
        return None
    third = len(samples) // 3
    first, last = (order_statistics(part, 50, z=_Z_99) for part in (samples[:third], samples[-third:]))
    change = last.value / first.value - 1
    return change if are_disjoint(first, last) and abs(change) >= _DRIFT else None


def detect_modes(samples: Float64Array) -> Modes | None:
    """Return the two modes of a bimodal distribution: far apart, both frequent, with a valley between them.

    Args:
        samples: (n,). Fewer than 100 are never said to be bimodal.

    References:
        Otsu 1979 for the split; Ashman, Bird and Zepf 1994 for the distance, in standard deviations.
    """
    if len(samples) < _MIN_SAMPLES:
        return None
    ordered = np.sort(samples)
    ordered = ordered[: max(2, round(0.99 * len(ordered)))]  # stragglers are not a mode
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
    """Return the split with the largest variance between the two parts."""
    count = np.arange(1, len(ordered))
    total = np.cumsum(ordered)
    below, above = total[:-1] / count, (total[-1] - total[:-1]) / (len(ordered) - count)
    between: Float64Array = count * (len(ordered) - count) * (above - below) ** 2
    return 1 + int(np.argmax(between).item())


def _has_valley(low: Float64Array, high: Float64Array) -> bool:
    """Whether few samples lie in the middle third between the medians of the two parts."""
    left, right = float(np.median(low)), float(np.median(high))
    both, third = np.concatenate([low, high]), (right - left) / 3
    middle = int(((both > left + third) & (both < right - third)).sum())
    return middle < _VALLEY * min(len(low), len(high))
