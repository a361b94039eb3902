"""What is remembered of one activation over any number of images: fixed memory, exactly mergeable."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from deploykit.quantize.histogram import Histogram

SAMPLED_VALUES = 4096
"""Of one image's values of one tensor, this many and up to a few times as many enter the histogram."""


@dataclass(kw_only=True)
class Statistics:
    """Of one tensor.

    Attributes:
        low, high: smallest and largest value seen, of all values.
        values: magnitudes, sampled evenly; all of them where an image has few.
        peaks: each image's largest magnitude, of all its values.
    """

    low: float = math.inf
    high: float = -math.inf
    values: Histogram = field(default_factory=Histogram)
    peaks: Histogram = field(default_factory=Histogram)

    @property
    def amax(self) -> float:
        """Largest magnitude seen."""
        return max(-self.low, self.high)

    def add(self, batch: npt.NDArray[np.float32]) -> None:
        """Counts a batch, (images, ...).

        Raises:
            ValueError: one of its values is not finite.
        """
        images = batch.reshape(len(batch), -1)
        lows, highs = images.min(axis=1), images.max(axis=1)
        self.peaks.add(np.maximum(-lows, highs))  # which refuses what is not finite
        self.values.add(images[:, :: _step(images.shape[1])])
        self.low = min(self.low, float(lows.min()) + 0.0)  # -0.0 would make merging depend on the order
        self.high = max(self.high, float(highs.max()) + 0.0)

    def copy(self) -> "Statistics":
        """The same, counting on by itself."""
        return replace(self, values=self.values.copy(), peaks=self.peaks.copy())

    def merged(self, other: "Statistics") -> "Statistics":
        """Those of both one's images; neither is changed."""
        both = self.copy()
        both.merge(other)
        return both

    def merge(self, other: "Statistics") -> None:
        """Adds the other's counts; the same as having seen its images too."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.values.merge(other.values)
        self.peaks.merge(other.peaks)


def _step(values: int) -> int:
    """How far apart an image's sampled values are, such that each column is met as often as the others."""
    step = max(values // SAMPLED_VALUES, 1)
    while math.gcd(step, values) > 1:
        step -= 1
    return step
