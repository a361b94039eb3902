"""A streaming histogram of magnitudes: one pass, fixed memory, exactly mergeable.

Bins cover [0, 2^exponent). A larger value doubles the range by adding neighbouring bins, so two
histograms of any values can be brought to one range without loss, in any order.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

BINS = 4096
_SMALLEST_EXPONENT = -64


@dataclass(kw_only=True)
class Histogram:
    """Counts of |x|.

    Attributes:
        amax: largest magnitude seen.
        exponent: bins cover [0, 2^exponent).
        counts: (BINS,) int64.
    """

    amax: float = 0.0
    exponent: int = _SMALLEST_EXPONENT
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Counts values of any shape.

        Raises:
            ValueError: one of them is not finite.
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
        return replace(self, counts=self.counts.copy())

    def merge(self, other: "Histogram") -> None:
        """Adds the other's counts; the same as having seen its values too."""
        self._widen_to(other.exponent)
        counts = other.counts
        for _ in range(min(self.exponent - other.exponent, BINS.bit_length())):
            counts = _halved(counts)
        self.counts = self.counts + counts
        self.amax = max(self.amax, other.amax)

    @property
    def bin_width(self) -> float:
        return 2.0**self.exponent / BINS

    def percentile(self, percent: float) -> float:
        """The magnitude that percent of the values stay under, to a bin's width; at most amax."""
        total = self.counts.sum()
        if not total:
            return 0.0
        bin_index = int(np.searchsorted(np.cumsum(self.counts), total * percent / 100))
        return min(self.amax, (bin_index + 1) * self.bin_width)

    def _widen_to(self, exponent: int) -> None:
        if self.amax:  # zeros are in the first bin of any range
            for _ in range(min(exponent - self.exponent, BINS.bit_length())):
                self.counts = _halved(self.counts)
        self.exponent = max(self.exponent, exponent)


def _halved(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same counts over twice the range."""
    merged = np.zeros_like(counts)
    merged[: BINS // 2] = counts.reshape(-1, 2).sum(axis=1)
    return merged
