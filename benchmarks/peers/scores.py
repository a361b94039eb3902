"""How near a quantized model comes to its labels and to FP32, in the arithmetic TensorRT does."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.onnx_tools.model_io import INPUT_NAME
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.stats.accuracy_metrics import agreement, median_sqnr_db, sqnr_db, top1

BATCH = 50

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Attributes.

    top1, agreement: fractions.
    sqnr_db: signal to quantization noise ratio of all logits; the few images of largest logits decide it.
    median_sqnr_db: that of one image's logits, the median over images.
    """

    top1: float
    agreement: float
    sqnr_db: float
    median_sqnr_db: float

    def cells(self) -> tuple[str, ...]:
        """As cells of a table; see COLUMNS."""
        return (
            f"{self.top1:.2%}",
            f"{self.agreement:.2%}",
            _decibels(self.sqnr_db),
            _decibels(self.median_sqnr_db),
        )


COLUMNS = ("top-1", "agreement", "SQNR", "median image's")


def _decibels(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "exact"


def logits(model: bytes | Path, images: Array) -> Array:
    """(n, classes) of (n, 3, side, side): Q/DQ as they stand, float between them."""
    session = cpu_session(model, fuse_int8=False)
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([session.run(None, {INPUT_NAME: part})[0] for part in parts])


def score(outputs: Array, reference: Array, labels: npt.NDArray[np.int64]) -> Scores:
    """Outputs beside the FP32 model's."""
    return Scores(
        top1=top1(outputs, labels),
        agreement=agreement(outputs, reference),
        sqnr_db=sqnr_db(outputs, reference),
        median_sqnr_db=median_sqnr_db(outputs, reference),
    )
