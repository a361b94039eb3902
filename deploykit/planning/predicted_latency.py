"""Latency on a GPU that is not in this machine: from records if there are any, else predicted."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.gpu_catalog.gpus import Gpu, normalized_names, normalized_synonyms
from deploykit.networks.member import Member
from deploykit.planning.cost_model.cost_model import can_predict, predict_latency
from deploykit.planning.latency_source import Latency
from deploykit.planning.recorded_latency import (
    RecordKey,
    find_by_key,
    read_latency,
    read_latency_records,
    require_latency_record,
)
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from deploykit.bench.record import Record

GPU_PRECISIONS: tuple[Precision, ...] = ("fp16", "int8")
"""Precisions worth comparing on a GPU, the default first."""


class PredictedLatency:
    """Latency source for a GPU elsewhere: records of that GPU first, then the cost model."""

    is_measuring = False

    def __init__(self, gpu: Gpu, *, percentile: float, records: Iterable[str | Path] = ()) -> None:
        """Read the records.

        Args:
            gpu: The GPU to predict for.
            percentile: Which percentile of recorded latencies to report, from 0 to 100.
            records: Files or folders. Only a folder's records of this GPU count.

        Raises:
            DeployError: A file has no single-stream latency, or describes another machine or network.
        """
        self._gpu, self.title = gpu, gpu.name
        self._recorded: dict[RecordKey, Latency] = {}
        for path in records:
            self._add(Path(path), percentile)

    @property
    def candidate_precisions(self) -> tuple[Precision, ...]:
        """FP16 and INT8, as far as the GPU's facts suffice to predict them."""
        known = tuple(each for each in GPU_PRECISIONS if can_predict(self._gpu, each))
        return known or GPU_PRECISIONS[:1]

    def resolve_precision(self, requested: Precision | None) -> Precision:
        """Return the requested precision, or FP16."""
        return requested or "fp16"

    def find_latency(self, member: Member, *, precision: Precision, batch: int) -> Latency:
        """Return the recorded latency of a batch, or else the predicted one.

        Raises:
            DeployError: The GPU's facts do not suffice for a prediction.
        """
        key = RecordKey.from_member(member, precision=precision, batch=batch)
        if (recorded := find_by_key(self._recorded, key)) is not None:
            return recorded
        predicted = predict_latency(member.network(), self._gpu, precision=precision, batch=batch)
        return Latency(
            expected_ms=predicted.latency_ms,
            low_ms=predicted.low_ms,
            high_ms=predicted.high_ms,
            images_per_s=1000 * batch / predicted.latency_ms,
            low_images_per_s=1000 * batch / predicted.high_ms,
            evidence="predicted",
            has_published_data=predicted.has_published_data,
        )

    def _add(self, path: Path, percentile: float) -> None:
        from deploykit.bench.record_file import read_record

        if path.is_dir():
            records = [each for each in read_latency_records(path) if self._is_of_this_gpu(each)]
        else:
            record = read_record(path)
            if not self._is_of_this_gpu(record):
                raise DeployError(
                    f"{path} was measured on {record.machine.name}, not on {self.title}.",
                    code="record-wrong-gpu",
                    fix="leave it out, or name that machine with --gpu",
                )
            require_latency_record(record, path)
            records = [record]
        for record in records:
            self._recorded[RecordKey.from_record(record)] = read_latency(record, percentile, "recorded")

    def _is_of_this_gpu(self, record: "Record") -> bool:
        """Whether the record's machine has one of the GPU's names or aliases."""
        return not normalized_names(self._gpu).isdisjoint(normalized_synonyms(record.machine.name))
