"""A streaming histogram of magnitudes: one pass, fixed memory, exactly mergeable.

The bins cover [0, 2^exponent). A larger value doubles the range by adding neighbouring bins. So two
histograms of any values can be brought to a common range without loss, in any order.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from deploykit.util.array_types import Float32Array

BINS = 4096
_MIN_EXPONENT = -64

Counts = npt.NDArray[np.int64]
"""How many values are in each bin, (BINS,)."""


@dataclass(kw_only=True)
class Histogram:
    """Counts of |x|.

    Attributes:
        amax: Largest magnitude seen.
        exponent: The bins cover [0, 2^exponent).
        counts: Values in each bin, (BINS,).
    """

    amax: float = 0.0
    exponent: int = _MIN_EXPONENT
    counts: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: Float32Array) -> None:
        """Count values of any shape.

        Raises:
            ValueError: A value is not finite.
        """
        magnitudes = np.abs(values).ravel()
        amax = float(magnitudes.max(initial=0.0))
        if not math.isfinite(amax):
            raise ValueError("not finite")
        if amax:  # zeros fit any range
            self._widen_to(math.frexp(amax)[1])
        self.amax = max(self.amax, amax)
        bins = (magnitudes * np.float32(1 / self.bin_width)).astype(np.int32)
        self.counts += np.bincount(bins, minlength=BINS)

    def copy(self) -> "Histogram":
        """Return an independent copy."""
        return replace(self, counts=self.counts.copy())

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another, as if its values had been counted here."""
        self._widen_to(other.exponent)
        counts = other.counts
        for _ in range(min(self.exponent - other.exponent, BINS.bit_length())):
            counts = _coarsened(counts)
        self.counts = self.counts + counts
        self.amax = max(self.amax, other.amax)

    @property
    def bin_width(self) -> float:
        """Width of each bin."""
        return 2.0**self.exponent / BINS

    def percentile(self, percent: float) -> float:
        """Return the magnitude that this percentage of the values does not exceed.

        It is exact to one bin width, and at most amax.
        """
        total = self.counts.sum()
        if not total:
            return 0.0
        bin_index = int(np.searchsorted(np.cumsum(self.counts), total * percent / 100))
        return min(self.amax, (bin_index + 1) * self.bin_width)

    def _widen_to(self, exponent: int) -> None:
        if self.amax:  # zeros are in the first bin of any range
            for _ in range(min(exponent - self.exponent, BINS.bit_length())):
                self.counts = _coarsened(self.counts)
        self.exponent = max(self.exponent, exponent)


def _coarsened(counts: Counts) -> Counts:
    """Return the same counts over twice the range."""
    merged = np.zeros_like(counts)
    merged[: BINS // 2] = counts.reshape(-1, 2).sum(axis=1)
    return merged
