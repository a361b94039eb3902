"""Activation ranges: what calibration measured, as a JSON file tied to one model."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from deploykit.data.preprocessing import Preprocessing
from deploykit.quantize.calibration.histogram import BINS, Histogram
from deploykit.quantize.calibration.method_choice import MethodChoice
from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics
from deploykit.util.atomic_files import write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """The values of a tensor that INT8 shall hold; what is outside is clipped."""

    low: float
    high: float

    @property
    def amax(self) -> float:
        return max(-self.low, self.high)


@dataclass(frozen=True, kw_only=True)  # no slots, for the intervals, which take long to find by some methods
class Ranges:
    """Statistics of a model's activations, and how to read ranges off them.

    Attributes:
        onnx_sha256: the model they were measured on; they are of no use to another.
        preprocessing: what was done to the images.
        sources: the images' paths, or `generated`.
        images: how many were seen.
        choice: what the method was chosen by; None where the user named it.
    """

    onnx_sha256: str
    preprocessing: Preprocessing
    sources: tuple[str, ...]
    images: int
    method: CalibrationMethod
    statistics: Mapping[str, TensorStatistics]
    choice: MethodChoice | None = None

    def tensor_range(self, tensor: str) -> TensorRange:
        """The range of a tensor by the method.

        Raises:
            DeployError: the tensor was not measured.
        """
        if tensor not in self.statistics:
            raise DeployError(
                f"The ranges know nothing of {tensor}.",
                code="ranges-incomplete",
                fix="run deploykit calibrate again",
            )
        if tensor not in self._intervals:
            statistics = self.statistics[tensor]
            amax = self.method.amax(statistics)
            low, high = max(statistics.low, -amax), min(statistics.high, amax)
            self._intervals[tensor] = TensorRange(low=low, high=high)
        return self._intervals[tensor]

    @cached_property
    def _intervals(self) -> dict[str, TensorRange]:
        """Those that have been asked for."""
        return {}

    def clipped_fractions(self) -> dict[str, float]:
        """The tensors whose range is under half of what was seen, and which part of it is left."""
        parts = {
            name: self.tensor_range(name).amax / statistics.amax
            for name, statistics in self.statistics.items()
            if statistics.amax
        }
        return {name: part for name, part in parts.items() if part < 0.5}

    def require_model(self, onnx_sha256: str) -> None:
        """Fails where the ranges were measured on another model.

        Raises:
            DeployError: they were.
        """
        if self.onnx_sha256 != onnx_sha256:
            raise DeployError(
                f"These ranges were measured on another model (SHA-256 {self.onnx_sha256[:12]}, "
                f"not {onnx_sha256[:12]}).",
                code="ranges-wrong-model",
                fix="deploykit calibrate --data DIR with the model you are building",
            )

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: Path) -> None:
        write_atomically(path, self.to_json())

    @staticmethod
    def load(path: Path) -> "Ranges":
        """Reads what save wrote.

        Raises:
            DeployError: there is no such file, or it is damaged.
        """
        if not path.is_file():
            raise DeployError(
                f"There is no ranges file {path}.",
                code="ranges-not-found",
                fix="deploykit calibrate --data DIR makes one",
            )
        try:
            return from_json(path.read_bytes(), RangesFile).to_ranges()
        except ValueError as error:
            raise DeployError(
                f"{path} is no ranges file, or was damaged ({error}).",
                code="ranges-damaged",
                fix="run deploykit calibrate again",
            ) from error

    def to_json(self) -> str:
        return to_json(RangesFile.of(self), indent=0)


def merge_ranges(first: Ranges, *others: Ranges) -> Ranges:
    """The ranges of all their images together: the same, whatever the order, as calibrating on all at once.

    Where the method was chosen by held-out error, it is chosen anew from the errors of all.

    Raises:
        DeployError: they are of different models, preprocessing or methods.
    """
    return reduce(_merge_two, others, first)


def _merge_two(first: Ranges, second: Ranges) -> Ranges:
    second.require_model(first.onnx_sha256)
    if first.preprocessing != second.preprocessing:
        raise DeployError(
            "The ranges were measured with different preprocessing of the images.",
            code="ranges-preprocessing-mismatch",
            fix="calibrate again, both times with the same options",
        )
    if first.statistics.keys() != second.statistics.keys():
        raise DeployError(
            "The ranges are of different tensors.",
            code="ranges-not-mergeable",
            fix="calibrate again with one version",
        )
    choice = None
    if first.choice is not None and second.choice is not None:
        choice = first.choice.merge(second.choice)
    elif first.choice is not None or second.choice is not None or first.method != second.method:
        raise DeployError(
            f"The ranges were read off by two methods, {_method_text(first)} and {_method_text(second)}.",
            code="ranges-not-mergeable",
            fix="give --method to read them all off by one",
        )
    return replace(
        first,
        sources=tuple(sorted({*first.sources, *second.sources})),
        images=first.images + second.images,
        method=choice.best if choice else first.method,
        choice=choice,
        statistics={
            name: statistics.merged(second.statistics[name]) for name, statistics in first.statistics.items()
        },
    )


def _method_text(ranges: Ranges) -> str:
    return str(ranges.method) if ranges.choice is None else "auto"


_Finite = Annotated[float, Meta(ge=-3.5e38, le=3.5e38)]
_Bin = Annotated[int, Meta(ge=0, lt=BINS)]
_Count = Annotated[int, Meta(ge=1, lt=2**62)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileHistogram:
    """A histogram in the file, without its empty bins."""

    amax: Annotated[float, Meta(ge=0)]
    exponent: Annotated[int, Meta(ge=-149, le=128)]  # of FP32
    bins: Annotated[list[_Bin], Meta(max_length=BINS)]
    counts: Annotated[list[_Count], Meta(max_length=BINS)]

    @staticmethod
    def of(histogram: Histogram) -> "_FileHistogram":
        bins = np.flatnonzero(histogram.counts)
        return _FileHistogram(
            amax=histogram.amax,
            exponent=histogram.exponent,
            bins=bins.tolist(),
            counts=histogram.counts[bins].tolist(),
        )

    def to_histogram(self) -> Histogram:
        if len(self.bins) != len(self.counts) or len(set(self.bins)) != len(self.bins):
            raise ValueError("a histogram's bins and counts don't match")
        counts = np.zeros(BINS, np.int64)
        counts[self.bins] = self.counts
        return Histogram(amax=self.amax, exponent=self.exponent, counts=counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileTensor:
    low: _Finite
    high: _Finite
    values: _FileHistogram
    peaks: _FileHistogram

    def to_statistics(self) -> TensorStatistics:
        if self.low > self.high:
            raise ValueError("a tensor's smallest value is above its largest")
        return TensorStatistics(
            low=self.low,
            high=self.high,
            values=self.values.to_histogram(),
            peaks=self.peaks.to_histogram(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RangesFile:
    """Ranges as JSON has them; `ranges` is there for readers alone."""

    onnx_sha256: str
    preprocessing: Preprocessing
    sources: tuple[str, ...]
    images: Annotated[int, Meta(ge=1)]
    method: CalibrationMethod
    choice: MethodChoice | None
    ranges: dict[str, tuple[float, float]]
    statistics: dict[str, _FileTensor]
    format: Literal[2] = 2

    @staticmethod
    def of(ranges: Ranges) -> "RangesFile":
        intervals = {name: ranges.tensor_range(name) for name in ranges.statistics}
        return RangesFile(
            onnx_sha256=ranges.onnx_sha256,
            preprocessing=ranges.preprocessing,
            sources=ranges.sources,
            images=ranges.images,
            method=ranges.method,
            choice=ranges.choice,
            ranges={name: (each.low, each.high) for name, each in intervals.items()},
            statistics={
                name: _FileTensor(
                    low=each.low,
                    high=each.high,
                    values=_FileHistogram.of(each.values),
                    peaks=_FileHistogram.of(each.peaks),
                )
                for name, each in ranges.statistics.items()
            },
        )

    def to_ranges(self) -> Ranges:
        return Ranges(
            onnx_sha256=self.onnx_sha256,
            preprocessing=self.preprocessing,
            sources=self.sources,
            images=self.images,
            method=self.method,
            choice=self.choice,
            statistics={name: tensor.to_statistics() for name, tensor in self.statistics.items()},
        )
