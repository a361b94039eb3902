"""The result of an evaluation, as a record and as a summary."""

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.accuracy.model_loader import LoadedModel
from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.data.images.selection import Images
from deploykit.stats.accuracy_metrics import Scores
from deploykit.stats.estimate import CONFIDENCE
from deploykit.util.atomic_files import file_sha256
from deploykit.util.errors import DeployError
from deploykit.util.json_io import to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The scores of a model on a set of images.

    Attributes:
        model: The evaluated model.
        reference: The FP32 model that it was compared with.
        images: The images that were drawn.
        indices: The readable images, which the scores are from, (n,).
        scores: Accuracy, agreement and SQNR.
        started: Start time, UTC, ISO 8601.
    """

    model: LoadedModel
    reference: Path | None
    images: Images
    indices: npt.NDArray[np.int64]
    scores: Scores
    started: str

    @property
    def count(self) -> int:
        """Number of images that the scores are from."""
        return len(self.indices)

    def record(self) -> AccuracyRecord:
        """Return the top-1 record that a report plots against latency.

        This reads the images again, for their digest.

        Raises:
            DeployError: The images have no labels, or can no longer be read.
        """
        if self.scores.top1 is None:
            raise unlabelled_error(self.images)
        info, digest = self.model.info, file_sha256(self.model.path)
        return AccuracyRecord(
            model=self.model.path.name,
            sha256=digest,
            onnx_sha256=info.onnx_sha256 if self.model.is_derived else digest,
            precision=self.model.precision,
            data=self.images.source,
            images=self.count,
            data_sha256=self._data_sha256(),
            images_sha256=self.images.subset(self.indices).sha256,
            top1=self.scores.top1,
            ran_by=self.model.ran_by,
            started=self.started,
        )

    def _data_sha256(self) -> str:
        digest = hashlib.sha256(to_json(self.images.preprocessing).encode())
        digest.update(np.ascontiguousarray(self.images.labels, np.int64).tobytes())
        digest.update(str(self.count).encode())
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Return JSON-compatible values; an infinite SQNR is None, with `identical` true."""
        scores = asdict(self.scores)
        decibels = self.scores.sqnr_db
        for name in ("sqnr_db", "median_sqnr_db"):
            if scores[name] is not None and not math.isfinite(scores[name]):
                scores[name] = None
        return {
            "model": str(self.model.path),
            "precision": self.model.precision,
            "arithmetic": self.model.arithmetic,
            "ran_by": self.model.ran_by,
            "reference": str(self.reference) if self.reference is not None else None,
            "data": self.images.source,
            "images": self.count,
            "skipped": self.images.count - self.count,
            "preprocessing": asdict(self.images.preprocessing),
            "confidence": CONFIDENCE,
            **scores,
            "identical": decibels == math.inf if decibels is not None else None,
        }


def unlabelled_error(images: Images) -> DeployError:
    """Return the error for images without labels, whose top-1 was to be recorded."""
    return DeployError(
        f"{images.source} has no labels, so top-1 can't be recorded.",
        code="images-unlabelled",
        fix="give --data labelled images: one folder per class",
    )
