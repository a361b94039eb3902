"""Statistics of one activation over any number of images: fixed memory, exactly mergeable."""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from deploykit.quantize.calibration.histogram import Histogram
from deploykit.util.array_types import Float32Array

SAMPLED_VALUES = 4096
"""At least this many of an image's values of one tensor, up to a few times as many, enter the histogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSample:
    """What the statistics need from a batch of one tensor.

    Attributes:
        lows, highs: Smallest and largest value of each image, (images,).
        sample: Evenly spaced values of each image, (images, values).
    """

    lows: Float32Array
    highs: Float32Array
    sample: Float32Array


def sample_batch(batch: Float32Array) -> BatchSample:
    """Sample a batch, (images, ...). The result holds no reference to it."""
    images = batch.reshape(len(batch), -1)
    sample = images[:, :: _stride(images.shape[1])].copy()
    return BatchSample(lows=images.min(axis=1), highs=images.max(axis=1), sample=sample)


@dataclass(kw_only=True)
class TensorStatistics:
    """Statistics of one tensor.

    Attributes:
        low, high: Smallest and largest value of all.
        values: Magnitudes, sampled evenly; all of them if an image has few.
        peaks: The largest magnitude of each image, over all its values.
    """

    low: float = math.inf
    high: float = -math.inf
    values: Histogram = field(default_factory=Histogram)
    peaks: Histogram = field(default_factory=Histogram)

    @property
    def amax(self) -> float:
        """Largest magnitude seen."""
        return max(-self.low, self.high)

    def add(self, batch: BatchSample) -> None:
        """Count a batch.

        Raises:
            ValueError: A value is not finite.
        """
        self.peaks.add(np.maximum(-batch.lows, batch.highs))  # raises if a value is not finite
        self.values.add(batch.sample)
        # Adding 0.0 turns -0.0 into 0.0, which would make the result of merging depend on the order.
        self.low = min(self.low, float(batch.lows.min()) + 0.0)
        self.high = max(self.high, float(batch.highs.max()) + 0.0)

    def copy(self) -> "TensorStatistics":
        """Return an independent copy."""
        return replace(self, values=self.values.copy(), peaks=self.peaks.copy())

    def merged_with(self, other: "TensorStatistics") -> "TensorStatistics":
        """Return the statistics of the images of both; neither is modified."""
        both = self.copy()
        both.merge(other)
        return both

    def merge(self, other: "TensorStatistics") -> None:
        """Add the counts of another, as if its images had been counted here."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.values.merge(other.values)
        self.peaks.merge(other.peaks)


def _stride(values: int) -> int:
    """Return the distance between sampled values, such that every column is sampled equally often."""
    stride = max(values // SAMPLED_VALUES, 1)
    while math.gcd(stride, values) > 1:
        stride -= 1
    return stride
