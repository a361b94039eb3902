"""Read a report's records, and arrange them."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import MeasuredEngine, Record
from deploykit.bench.record_file import AnyRecord, read_any_record, read_record_folder
from deploykit.bench.scenarios import Scenario
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import FAMILIES
from deploykit.reporting.report.engine_facts import network_name, short_machine
from deploykit.reporting.report.setup import Setup
from deploykit.reporting.report.text import count_noun
from deploykit.util.errors import DeployError

T = TypeVar("T", Record, LayerProfile)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Records of a report: the latest of each measurement, from the least work to the most.

    Attributes:
        superseded: How many records were left out because the same was measured again later.
        strays: Files in the folders that are not records.
    """

    latencies: tuple[Record, ...] = ()
    profiles: tuple[LayerProfile, ...] = ()
    accuracies: tuple[AccuracyRecord, ...] = ()
    superseded: int = 0
    strays: tuple[Path, ...] = ()

    @property
    def runs(self) -> tuple[Record | LayerProfile, ...]:
        """Records of latency or throughput, then profiles."""
        return (*self.latencies, *self.profiles)

    @property
    def setups(self) -> tuple[Setup, ...]:
        """Every setup once, sorted."""
        return tuple(sorted({Setup.from_record(each) for each in self.runs}))

    @property
    def machines(self) -> tuple[str, ...]:
        """Titles of the machines, each once: `AMD EPYC (2 cores)`."""
        machines = {(each.machine, each.cores) for each in self.setups}
        return tuple(
            f"{short_machine(name)} ({count_noun(cores, 'core')})" for name, cores in sorted(machines)
        )

    @property
    def families(self) -> tuple[Family, ...]:
        """Families of the measured networks."""
        names = {each.engine.family for each in self.latencies}
        return tuple(family for name, family in FAMILIES.items() if name in names)

    def filter_scenario(self, scenario: Scenario) -> tuple[Record, ...]:
        """Return the records of one scenario."""
        return tuple(record for record in self.latencies if record.method.scenario == scenario)

    def filter_single_stream(self, batch: int = 1) -> tuple[Record, ...]:
        """Return the records of consecutive requests, end to end, at one batch size."""
        return tuple(
            record
            for record in self.latencies
            if (record.method.scenario, record.method.scope, record.method.batch)
            == ("single-stream", "end-to-end", batch)
        )

    def find_accuracy(self, engine: MeasuredEngine) -> AccuracyRecord | None:
        """Return the evaluation of an engine on the most images; None if there is none.

        The evaluation is of the engine itself, or else of a model at its precision from the same FP32 model.
        """
        exact = [each for each in self.accuracies if each.sha256 == engine.sha256]
        related = [
            each
            for each in self.accuracies
            if each.onnx_sha256 is not None
            and (each.onnx_sha256, each.precision) == (engine.onnx_sha256, engine.precision)
        ]
        return max(exact or related, key=lambda each: (each.images, each.started), default=None)


def read_report_data(paths: Iterable[str | Path]) -> ReportData:
    """Read records from files and folders.

    Raises:
        DeployError: There is no record, or one is damaged.
    """
    records: dict[Path, AnyRecord] = {}
    strays: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            folder = read_record_folder(path)
            records |= folder.records
            strays += folder.strays
        else:
            records[path] = read_any_record(path)
    if not records:
        raise DeployError(
            "A report needs at least one record, and none was found.",
            code="records-missing",
            fix="deploykit study --gpu cpu -o records",
        )
    return replace(arrange_records(list(records.values())), strays=tuple(dict.fromkeys(strays)))


def arrange_records(records: Sequence[AnyRecord]) -> ReportData:
    """Return the latest record of each measurement, sorted."""
    engines = _distinguish_engines([each for each in records if not isinstance(each, AccuracyRecord)])
    latencies = _keep_latest([each for each in engines if isinstance(each, Record)])
    profiles = _keep_latest([each for each in engines if isinstance(each, LayerProfile)])
    accuracies = tuple(each for each in records if isinstance(each, AccuracyRecord))
    kept = len(latencies) + len(profiles) + len(accuracies)
    return ReportData(
        latencies=latencies,
        profiles=profiles,
        accuracies=accuracies,
        superseded=len(records) - kept,
    )


def _distinguish_engines(records: Sequence[Record | LayerProfile]) -> list[Record | LayerProfile]:
    """Return the records; engines that differ only in their bytes get their file name in the compiler.

    Otherwise two ways to quantize one network would form one series.
    """
    names: dict[Hashable, dict[str, str]] = {}
    for each in records:
        by_digest = names.setdefault((network_name(each.engine), Setup.from_record(each)), {})
        by_digest.setdefault(each.engine.sha256, each.engine.name)
    return [
        each if len(by_digest) == 1 else replace(each, engine=_add_file_name(each.engine, by_digest))
        for each in records
        for by_digest in (names[network_name(each.engine), Setup.from_record(each)],)
    ]


def _add_file_name(engine: MeasuredEngine, names: Mapping[str, str]) -> MeasuredEngine:
    """Return the engine with its first file name in the compiler, and its digest if names collide."""
    file = names[engine.sha256]
    if list(names.values()).count(file) > 1:
        file = f"{file} {engine.sha256[:6]}"
    return replace(engine, compiler=f"{engine.compiler}, {file}")


def _keep_latest(records: Sequence[T]) -> tuple[T, ...]:
    latest = {_measurement_key(each): each for each in sorted(records, key=lambda each: each.started)}
    return tuple(sorted(latest.values(), key=lambda each: (each.engine.macs, each.engine.name)))


def _measurement_key(record: Record | LayerProfile) -> Hashable:
    how = record.method if isinstance(record, Record) else record.batch
    return (record.engine.sha256, network_name(record.engine), Setup.from_record(record), how)
