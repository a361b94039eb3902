"""Activation ranges: what calibration measured, as a JSON file tied to one model."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from deploykit.errors import DeployError
from deploykit.files import write_atomically
from deploykit.quantize.histogram import BINS, Histogram

Method = Literal["max", "percentile"]
METHODS: tuple[str, ...] = get_args(Method)
DEFAULT_PERCENTILE = 99.999
_FORMAT = 1


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
    percentile: float
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

    def to_json(self) -> str:
        tensors = {
            name: {
                "range": self.amax(name),
                "amax": histogram.amax,
                "exponent": histogram.exponent,
                "counts": np.trim_zeros(histogram.counts, "b").tolist(),
            }
            for name, histogram in self.histograms.items()
        }
        content = {
            "format": _FORMAT,
            "onnx_sha256": self.onnx_sha256,
            "method": self.method,
            "percentile": self.percentile,
            "source": self.source,
            "images": self.images,
            "tensors": tensors,
        }
        return json.dumps(content) + "\n"

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
                f"There is no ranges file {path}.", fix="deploykit calibrate --data DIR makes one"
            )
        try:
            content = json.loads(path.read_text())
            if content["format"] != _FORMAT:
                raise ValueError(content["format"])
            return Ranges(
                onnx_sha256=content["onnx_sha256"],
                method=content["method"],
                percentile=content["percentile"],
                source=content["source"],
                images=content["images"],
                histograms={name: _histogram(fields) for name, fields in content["tensors"].items()},
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DeployError(
                f"{path} is no ranges file, or was cut short.", fix="run deploykit calibrate again"
            ) from error


def _histogram(fields: Mapping[str, object]) -> Histogram:
    counts = np.zeros(BINS, np.int64)
    seen = np.asarray(fields["counts"], np.int64)
    counts[: len(seen)] = seen
    amax, exponent = fields["amax"], fields["exponent"]
    if not isinstance(amax, float | int) or not isinstance(exponent, int) or not math.isfinite(amax):
        raise TypeError("amax and exponent are numbers")
    return Histogram(amax=float(amax), exponent=exponent, counts=counts)
