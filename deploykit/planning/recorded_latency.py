"""Latencies from the records that `deploykit bench`, `study` and `fit` wrote."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deploykit.networks.families.registry import FAMILIES
from deploykit.networks.member import Member
from deploykit.networks.scaling import Scale
from deploykit.planning.latency_source import Evidence, Latency
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from deploykit.bench.record import Record

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordKey:
    """What a record and a network must share for the record to describe the network.

    Attributes:
        scale: None if the record does not say it.
        classes: Number of classes; None if the record does not say it.
    """

    family: str
    scale: Scale | None
    precision: Precision | None
    batch: int
    classes: int | None

    @classmethod
    def from_record(cls, record: "Record") -> "RecordKey":
        """Return the key of a record."""
        engine = record.engine
        return cls(
            family=engine.family,
            scale=engine.scale,
            precision=engine.precision,
            batch=record.method.batch,
            classes=engine.classes,
        )

    @classmethod
    def from_member(cls, member: Member, *, precision: Precision, batch: int) -> "RecordKey":
        """Return the key of a network at a precision and batch size."""
        return cls(
            family=member.family.name,
            scale=member.scale,
            precision=precision,
            batch=batch,
            classes=member.network().num_classes,
        )


def find_by_key(known: Mapping[RecordKey, T], key: RecordKey) -> T | None:
    """Return the value for the key, or else the one whose number of classes is unknown."""
    return known.get(key) or known.get(replace(key, classes=None))


def read_latency(record: "Record", percentile: float, evidence: Evidence) -> Latency:
    """Return the latency that a record shows at a percentile."""
    latency, rate = record.percentile_ms(percentile), record.images_per_s
    return Latency(
        expected_ms=latency.value,
        low_ms=latency.value,
        high_ms=latency.value,
        images_per_s=rate.value,
        low_images_per_s=rate.value if rate.low is None else rate.low,
        evidence=evidence,
        is_rough=latency.high is None,
    )


def read_latency_records(folder: Path) -> "Iterator[Record]":
    """Yield the folder's records of consecutive single requests, as a client sees them."""
    from deploykit.bench.record import Record
    from deploykit.bench.record_file import read_record_folder

    for record in read_record_folder(folder).records.values():
        if isinstance(record, Record) and _is_latency(record):
            yield record


def require_latency_record(record: "Record", path: Path) -> None:
    """Check that a record describes a network that a fit considers.

    Raises:
        DeployError: It has another scenario or scope, or another number of classes.
    """
    method, family = record.method, FAMILIES.get(record.engine.family)
    if not _is_latency(record):
        raise DeployError(
            f"{path} has scenario {method.scenario} and scope {method.scope}; fit needs single-stream "
            "latency, end to end.",
            code="record-wrong-kind",
            fix="leave it out, or measure with deploykit bench without --scenario and --scope",
        )
    if family is not None and record.engine.classes not in (None, family.num_classes):
        raise DeployError(
            f"{path} was measured on a network with {record.engine.classes} classes; {family.title} has "
            f"{family.num_classes}.",
            code="record-wrong-network",
            fix="leave it out, or measure a network exported without --weights and --num-classes",
        )


def _is_latency(record: "Record") -> bool:
    return (record.method.scenario, record.method.scope) == ("single-stream", "end-to-end")
