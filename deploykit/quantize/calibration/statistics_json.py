"""The JSON form of tensor statistics, as ranges files store them."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from deploykit.quantize.calibration.histogram import BINS, Histogram
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics

_Finite = Annotated[float, Meta(ge=-3.5e38, le=3.5e38)]
_Bin = Annotated[int, Meta(ge=0, lt=BINS)]
_Count = Annotated[int, Meta(ge=1, lt=2**62)]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramJson:
    """A histogram without its empty bins."""

    amax: Annotated[float, Meta(ge=0)]
    exponent: Annotated[int, Meta(ge=-149, le=128)]  # of FP32
    bins: Annotated[list[_Bin], Meta(max_length=BINS)]
    counts: Annotated[list[_Count], Meta(max_length=BINS)]

    @staticmethod
    def from_histogram(histogram: Histogram) -> "HistogramJson":
        """Return the JSON form of a histogram."""
        bins = np.flatnonzero(histogram.counts)
        return HistogramJson(
            amax=histogram.amax,
            exponent=histogram.exponent,
            bins=bins.tolist(),
            counts=histogram.counts[bins].tolist(),
        )

    def to_histogram(self) -> Histogram:
        """Return the histogram.

        Raises:
            ValueError: Bins and counts do not match.
        """
        if len(self.bins) != len(self.counts) or len(set(self.bins)) != len(self.bins):
            raise ValueError("the bins and counts of a histogram do not match")
        counts = np.zeros(BINS, np.int64)
        counts[self.bins] = self.counts
        return Histogram(amax=self.amax, exponent=self.exponent, counts=counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsJson:
    """The statistics of one tensor."""

    low: _Finite
    high: _Finite
    values: HistogramJson
    peaks: HistogramJson

    @staticmethod
    def from_statistics(statistics: TensorStatistics) -> "StatisticsJson":
        """Return the JSON form of statistics."""
        return StatisticsJson(
            low=statistics.low,
            high=statistics.high,
            values=HistogramJson.from_histogram(statistics.values),
            peaks=HistogramJson.from_histogram(statistics.peaks),
        )

    def to_statistics(self) -> TensorStatistics:
        """Return the statistics.

        Raises:
            ValueError: The values contradict each other.
        """
        if self.low > self.high:
            raise ValueError("the smallest value of a tensor is above its largest")
        return TensorStatistics(
            low=self.low,
            high=self.high,
            values=self.values.to_histogram(),
            peaks=self.peaks.to_histogram(),
        )
