"""Activation ranges: what calibration measured, as a JSON file tied to one model."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from msgspec import Meta

from deploykit.errors import DeployError
from deploykit.files import write_atomically
from deploykit.quantize.histogram import BINS, Histogram
from deploykit.serial import from_json, to_json

Method = Literal["max", "percentile"]
METHODS: tuple[str, ...] = get_args(Method)
Percentile = Annotated[float, Meta(gt=50, le=100)]
DEFAULT_PERCENTILE = 99.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Histograms of a model's activations, and how to read ranges off them.

    Attributes:
        onnx_sha256: the model they were measured on; they are of no use to another.
        method: `max`: the largest magnitude; `percentile`: what `percentile` percent stay under.
        source: the images' path, or `generated`.
        images: how many were seen.
    """

    onnx_sha256: str
    method: Method
    percentile: Percentile
    source: str
    images: int
    histograms: Mapping[str, Histogram]

    def amax(self, tensor: str) -> float:
        """The magnitude that INT8's 127 stands for.

        Raises:
            DeployError: the tensor was not measured.
        """
        if tensor not in self.histograms:
            raise DeployError(f"The ranges know nothing of {tensor}.", fix="run deploykit calibrate again")
        histogram = self.histograms[tensor]
        return histogram.amax if self.method == "max" else histogram.percentile(self.percentile)

    def require_model(self, onnx_sha256: str) -> None:
        """Fails where the ranges were measured on another model.

        Raises:
            DeployError: they were.
        """
        if self.onnx_sha256 != onnx_sha256:
            raise DeployError(
                f"These ranges were measured on another model (SHA-256 {self.onnx_sha256[:12]}, "
                f"not {onnx_sha256[:12]}).",
                fix="deploykit calibrate --data DIR with the model you are building",
            )

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._to_json().encode()).hexdigest()

    def save(self, path: Path) -> None:
        write_atomically(path, self._to_json())

    @staticmethod
    def load(path: Path) -> "Ranges":
        """Reads what save wrote.

        Raises:
            DeployError: there is no such file, or it is damaged.
        """
        if not path.is_file():
            raise DeployError(
                f"There is no ranges file {path}.", fix="deploykit calibrate --data DIR makes one"
            )
        try:
            file = from_json(path.read_bytes(), _File)
        except ValueError as error:
            raise DeployError(
                f"{path} is no ranges file, or was damaged ({error}).", fix="run deploykit calibrate again"
            ) from error
        return Ranges(
            onnx_sha256=file.onnx_sha256,
            method=file.method,
            percentile=file.percentile,
            source=file.source,
            images=file.images,
            histograms={name: _histogram(tensor) for name, tensor in file.tensors.items()},
        )

    def _to_json(self) -> str:
        tensors = {
            name: _FileTensor(
                range=self.amax(name),
                amax=histogram.amax,
                exponent=histogram.exponent,
                counts=np.trim_zeros(histogram.counts, "b").tolist(),
            )
            for name, histogram in self.histograms.items()
        }
        return to_json(
            _File(
                onnx_sha256=self.onnx_sha256,
                method=self.method,
                percentile=float(self.percentile),
                source=self.source,
                images=self.images,
                tensors=tensors,
            ),
            indent=0,
        )


_Count = Annotated[int, Meta(ge=0, lt=2**62)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileTensor:
    """A histogram in the file; `range` is there for readers alone."""

    range: float
    amax: Annotated[float, Meta(ge=0)]
    exponent: Annotated[int, Meta(ge=-149, le=128)]  # of FP32
    counts: Annotated[list[_Count], Meta(max_length=BINS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    onnx_sha256: str
    method: Method
    percentile: Percentile
    source: str
    images: Annotated[int, Meta(ge=1)]
    tensors: dict[str, _FileTensor]
    format: Literal[1] = 1


def _histogram(tensor: _FileTensor) -> Histogram:
    counts = np.zeros(BINS, np.int64)
    counts[: len(tensor.counts)] = tensor.counts
    return Histogram(amax=tensor.amax, exponent=tensor.exponent, counts=counts)
