"""Activation ranges: the result of calibration, stored as a JSON file that belongs to one model."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from deploykit.data.preprocessing import Preprocessing
from deploykit.quantize.calibration.method_choice import MethodChoice
from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.quantize.calibration.statistics_json import StatisticsJson
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics
from deploykit.util.atomic_files import write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """The values of a tensor that INT8 represents; values outside are clipped."""

    low: float
    high: float

    @property
    def amax(self) -> float:
        """Largest magnitude in the range."""
        return max(-self.low, self.high)


@dataclass(frozen=True, kw_only=True)  # no slots, for the cached ranges: some methods take long to find them
class Ranges:
    """Statistics of a model's activations, and the method that reads ranges off them.

    Attributes:
        onnx_sha256: Digest of the model that they were measured on. They are useless for any other.
        preprocessing: How the images were prepared.
        sources: Paths of the images, or `generated`.
        images: How many images were counted.
        method: How ranges are read off the statistics.
        statistics: By tensor.
        choice: The errors that `auto` chose the method by; None if the user named the method.
    """

    onnx_sha256: str
    preprocessing: Preprocessing
    sources: tuple[str, ...]
    images: int
    method: CalibrationMethod
    statistics: Mapping[str, TensorStatistics]
    choice: MethodChoice | None = None

    def tensor_range(self, tensor: str) -> TensorRange:
        """Return the range of a tensor.

        Raises:
            DeployError: The tensor was not measured.
        """
        if tensor not in self.statistics:
            raise DeployError(
                f"The ranges do not include tensor {tensor}.",
                code="ranges-incomplete",
                fix="deploykit calibrate --data DIR",
            )
        if tensor not in self._cached_ranges:
            statistics = self.statistics[tensor]
            amax = self.method.amax(statistics)
            low, high = max(statistics.low, -amax), min(statistics.high, amax)
            self._cached_ranges[tensor] = TensorRange(low=low, high=high)
        return self._cached_ranges[tensor]

    @cached_property
    def _cached_ranges(self) -> dict[str, TensorRange]:
        return {}

    def clipped_fractions(self) -> dict[str, float]:
        """Return the tensors whose range is less than half of what was seen, and the remaining fraction."""
        fractions = {
            name: self.tensor_range(name).amax / statistics.amax
            for name, statistics in self.statistics.items()
            if statistics.amax
        }
        return {name: fraction for name, fraction in fractions.items() if fraction < 0.5}

    def require_model(self, onnx_sha256: str) -> None:
        """Check that the ranges were measured on the model with this digest.

        Raises:
            DeployError: They were measured on another.
        """
        if self.onnx_sha256 != onnx_sha256:
            raise DeployError(
                f"These ranges belong to another model (SHA-256 {self.onnx_sha256[:12]}, "
                f"not {onnx_sha256[:12]}).",
                code="ranges-wrong-model",
                fix="run deploykit calibrate --data DIR with the model that you are quantizing",
            )

    @property
    def sha256(self) -> str:
        """Digest of the JSON form."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the ranges to a file."""
        write_atomically(Path(path), self.to_json())

    @staticmethod
    def load(path: str | Path) -> "Ranges":
        """Read ranges that save wrote.

        Raises:
            DeployError: The file does not exist, or is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise DeployError(
                f"Ranges file {path} does not exist.",
                code="ranges-not-found",
                fix="deploykit calibrate --data DIR",
            )
        try:
            return from_json(path.read_bytes(), RangesFile).to_ranges()
        except ValueError as error:
            raise DeployError(
                f"{path} is not a ranges file, or is damaged ({error}).",
                code="ranges-damaged",
                fix="deploykit calibrate --data DIR",
            ) from error

    def to_json(self) -> str:
        """Return the content of the ranges file."""
        return to_json(RangesFile.from_ranges(self), indent=0)


def merge_ranges(first: Ranges, *others: Ranges) -> Ranges:
    """Return the ranges of all images together.

    The result does not depend on the order, and equals a calibration on all images at once. If `auto` chose
    the method, it is chosen again from the summed errors.

    Raises:
        DeployError: The ranges have different models, preprocessing or methods.
    """
    return reduce(_merge_two, others, first)


def _merge_two(first: Ranges, second: Ranges) -> Ranges:
    second.require_model(first.onnx_sha256)
    if first.preprocessing != second.preprocessing:
        raise DeployError(
            "The ranges were measured with different preprocessing.",
            code="ranges-preprocessing-mismatch",
            fix="calibrate again with the same preprocessing options",
        )
    if first.statistics.keys() != second.statistics.keys():
        raise DeployError(
            "The ranges cover different tensors.",
            code="ranges-not-mergeable",
            fix="calibrate again with one version of deploykit",
        )
    choice = None
    if first.choice is not None and second.choice is not None:
        choice = first.choice.merge(second.choice)
    elif first.choice is not None or second.choice is not None or first.method != second.method:
        raise DeployError(
            f"The ranges use different methods, {_method_name(first)} and {_method_name(second)}.",
            code="ranges-not-mergeable",
            fix="add --method to use one method for all",
        )
    return replace(
        first,
        sources=tuple(sorted({*first.sources, *second.sources})),
        images=first.images + second.images,
        method=choice.best if choice else first.method,
        choice=choice,
        statistics={
            name: statistics.merged_with(second.statistics[name])
            for name, statistics in first.statistics.items()
        },
    )


def _method_name(ranges: Ranges) -> str:
    return str(ranges.method) if ranges.choice is None else "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class RangesFile:
    """The JSON form of ranges. Its `ranges` are only for readers of the file."""

    onnx_sha256: str
    preprocessing: Preprocessing
    sources: tuple[str, ...]
    images: Annotated[int, Meta(ge=1)]
    method: CalibrationMethod
    choice: MethodChoice | None
    ranges: dict[str, tuple[float, float]]
    statistics: dict[str, StatisticsJson]
    format: Literal[2] = 2

    @staticmethod
    def from_ranges(ranges: Ranges) -> "RangesFile":
        """Return the JSON form of ranges."""
        tensor_ranges = {name: ranges.tensor_range(name) for name in ranges.statistics}
        return RangesFile(
            onnx_sha256=ranges.onnx_sha256,
            preprocessing=ranges.preprocessing,
            sources=ranges.sources,
            images=ranges.images,
            method=ranges.method,
            choice=ranges.choice,
            ranges={name: (each.low, each.high) for name, each in tensor_ranges.items()},
            statistics={
                name: StatisticsJson.from_statistics(each) for name, each in ranges.statistics.items()
            },
        )

    def to_ranges(self) -> Ranges:
        """Return the ranges.

        Raises:
            ValueError: Some statistics contradict each other.
        """
        return Ranges(
            onnx_sha256=self.onnx_sha256,
            preprocessing=self.preprocessing,
            sources=self.sources,
            images=self.images,
            method=self.method,
            choice=self.choice,
            statistics={name: tensor.to_statistics() for name, tensor in self.statistics.items()},
        )
