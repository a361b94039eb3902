"""What is remembered of one activation over any number of images: fixed memory, exactly mergeable."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from deploykit.quantize.calibration.histogram import Histogram

SAMPLED_VALUES = 4096
"""Of one image's values of one tensor, this many and up to a few times as many enter the histogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSample:
    """What is counted of a batch of one tensor.

    Attributes:
        lows, highs: each image's smallest and largest value, (images,).
        sample: of each image's values, evenly; (images, values).
    """

    lows: npt.NDArray[np.float32]
    highs: npt.NDArray[np.float32]
    sample: npt.NDArray[np.float32]


def sample_batch(batch: npt.NDArray[np.float32]) -> BatchSample:
    """Looks at a batch, (images, ...), and keeps none of it."""
    images = batch.reshape(len(batch), -1)
    sample = images[:, :: _step(images.shape[1])].copy()
    return BatchSample(lows=images.min(axis=1), highs=images.max(axis=1), sample=sample)


@dataclass(kw_only=True)
class TensorStatistics:
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

    def add(self, observed: BatchSample) -> None:
        """Counts a batch.

        Raises:
            ValueError: one of its values is not finite.
        """
        self.peaks.add(np.maximum(-observed.lows, observed.highs))  # which refuses what is not finite
        self.values.add(observed.sample)
        self.low = min(
            self.low, float(observed.lows.min()) + 0.0
        )  # -0.0 would make merging depend on the order
        self.high = max(self.high, float(observed.highs.max()) + 0.0)

    def copy(self) -> "TensorStatistics":
        """The same, counting on by itself."""
        return replace(self, values=self.values.copy(), peaks=self.peaks.copy())

    def merged(self, other: "TensorStatistics") -> "TensorStatistics":
        """Those of both one's images; neither is changed."""
        both = self.copy()
        both.merge(other)
        return both

    def merge(self, other: "TensorStatistics") -> None:
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
