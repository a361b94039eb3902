"""What a report is made of: records, read, sorted and labelled."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import MeasuredEngine, Record, describe_execution
from deploykit.bench.record_file import AnyRecord, read_any_record, read_record_folder
from deploykit.bench.scenarios import Scenario
from deploykit.networks.families.family import Family, PublishedAccuracy
from deploykit.networks.families.registry import DEFAULT_FAMILY, FAMILIES
from deploykit.networks.scaling import Axis, format_phi, stretched_axis
from deploykit.reporting.report.section import counted
from deploykit.util.errors import DeployError

_PRECISIONS = ("fp32", "fp16", "int8")
_TRADEMARKS = re.compile(r"\((?:R|TM)\)|\bCPU\b|\s+@.*$|\bProcessor\b|\b\d+-Core\b")

T = TypeVar("T", Record, LayerProfile)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Setup:
    """What runs networks: figures of one setup are one series.

    Attributes:
        how: how many threads, or whether as CUDA graphs.
    """

    family: str
    machine: str
    cores: int
    how: str
    precision_rank: int
    compiler: str

    @property
    def precision(self) -> str:
        return _PRECISIONS[self.precision_rank].upper()

    def title(self, among: "Sequence[Setup]") -> str:
        return ", ".join(self.parts(among))

    def parts(self, among: "Sequence[Setup]") -> tuple[str, ...]:
        """Its precision, and what else it differs in from the others."""
        parts = [self.precision]
        if len({each.family for each in among}) > 1:
            parts.insert(0, self.family)
        if len({each.compiler for each in among}) > 1:
            parts.append(self.compiler)
        if len({each.machine for each in among}) > 1:
            parts.append(short_machine(self.machine))
        if len({each.cores for each in among if each.machine == self.machine}) > 1:
            parts.append(f"{self.cores} cores")
        if len({each.how for each in among if each.machine == self.machine}) > 1:
            parts.append(self.how)
        return tuple(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Records, the latest of each measurement alone, from the least work to the most.

    Attributes:
        superseded: how many were left out since the same was measured again later.
        strays: files of their folders that are no records, and were left out.
    """

    latencies: tuple[Record, ...] = ()
    profiles: tuple[LayerProfile, ...] = ()
    accuracies: tuple[AccuracyRecord, ...] = ()
    superseded: int = 0
    strays: tuple[Path, ...] = ()

    @property
    def setups(self) -> tuple[Setup, ...]:
        found = {setup_of(each) for each in self.latencies} | {setup_of(each) for each in self.profiles}
        return tuple(sorted(found))

    @property
    def machines(self) -> tuple[str, ...]:
        """In words, each once: `AMD EPYC (2 cores)`."""
        found = {(each.machine, each.cores) for each in self.setups}
        return tuple(f"{short_machine(name)} ({counted(cores, 'core')})" for name, cores in sorted(found))

    @property
    def families(self) -> tuple[Family, ...]:
        """Those that networks were measured of."""
        names = {each.engine.family for each in self.latencies}
        return tuple(family for name, family in FAMILIES.items() if name in names)

    def of_scenario(self, scenario: Scenario) -> tuple[Record, ...]:
        return tuple(record for record in self.latencies if record.method.scenario == scenario)

    def single_stream(self, batch: int = 1) -> tuple[Record, ...]:
        return tuple(
            record
            for record in self.latencies
            if (record.method.scenario, record.method.scope, record.method.batch)
            == ("single-stream", "end-to-end", batch)
        )

    def accuracy_of(self, engine: MeasuredEngine) -> AccuracyRecord | None:
        """Its own, or a model's in its precision that comes from the same FP32 model; on the most images."""
        exact = [each for each in self.accuracies if each.sha256 == engine.sha256]
        alike = [
            each
            for each in self.accuracies
            if each.onnx_sha256 is not None
            and (each.onnx_sha256, each.precision) == (engine.onnx_sha256, engine.precision)
        ]
        return max(exact or alike, key=lambda each: (each.images, each.started), default=None)


def gather(paths: Iterable[str | Path]) -> Gathered:
    """Reads records, those of folders among them.

    Raises:
        DeployError: there are none, or one is damaged.
    """
    found: dict[Path, AnyRecord] = {}
    strays: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            folder = read_record_folder(path)
            found |= folder.records
            strays += folder.strays
        else:
            found[path] = read_any_record(path)
    if not found:
        raise DeployError(
            "There are no records to report on.",
            code="records-missing",
            fix="deploykit study --gpu cpu -o records makes some",
        )
    return replace(arrange(list(found.values())), strays=tuple(dict.fromkeys(strays)))


def arrange(records: Sequence[AnyRecord]) -> Gathered:
    """The latest of each measurement, sorted."""
    engines = _told_apart([each for each in records if not isinstance(each, AccuracyRecord)])
    latencies = _latest([each for each in engines if isinstance(each, Record)])
    profiles = _latest([each for each in engines if isinstance(each, LayerProfile)])
    accuracies = tuple(each for each in records if isinstance(each, AccuracyRecord))
    kept = len(latencies) + len(profiles) + len(accuracies)
    return Gathered(
        latencies=latencies,
        profiles=profiles,
        accuracies=accuracies,
        superseded=len(records) - kept,
    )


def setup_of(record: Record | LayerProfile) -> Setup:
    method = record.method if isinstance(record, Record) else record
    return Setup(
        family=record.engine.family,
        machine=record.machine.name,
        cores=record.machine.cores,
        how=describe_execution(threads=method.threads, cuda_graph=method.cuda_graph),
        precision_rank=_PRECISIONS.index(record.engine.precision),
        compiler=record.engine.compiler,
    )


def network_name(engine: MeasuredEngine) -> str:
    """`phi 3`, `depth 4`, or the file's name where nothing else is known."""
    if engine.family == "unknown":
        return engine.name
    family = "" if engine.family == DEFAULT_FAMILY else f"{engine.family} "
    if engine.phi is not None:
        own_side = "" if _has_own_side(engine) else f", {engine.side_px} px"
        return f"{family}phi {format_phi(engine.phi)}{own_side}"
    axis = axis_of_engine(engine)
    if axis == "side":
        return f"{family}side {engine.side_px} px"
    return f"{family}{axis} {getattr(engine, axis):g}" if axis is not None else engine.name


def short_machine(name: str) -> str:
    """Without trademarks, clocks and counts of cores."""
    return " ".join(_TRADEMARKS.sub(" ", name).split())


def is_compound(engine: MeasuredEngine) -> bool:
    """Whether it is a member of its family, as phi leads to it by the family's own rule."""
    family = FAMILIES.get(engine.family)
    return (
        family is not None and engine.phi is not None and engine.rule == family.rule and _has_own_side(engine)
    )


def axis_of_engine(engine: MeasuredEngine) -> Axis | None:
    """The one axis along which the baseline was stretched by hand; None for any other network."""
    family = FAMILIES.get(engine.family)
    if family is None or engine.phi is not None or engine.scale is None:
        return None
    return stretched_axis(engine.scale, family.base)


def published_top1(engine: MeasuredEngine) -> PublishedAccuracy | None:
    """Of the network at that scale; None where nobody published it, or it is no classifier."""
    family = FAMILIES.get(engine.family)
    if family is None or family.metric != "top-1" or engine.scale is None:
        return None
    if engine.classes not in (None, family.num_classes):
        return None  # which is about ImageNet's classes
    return family.accuracy.get(engine.scale)


def _has_own_side(engine: MeasuredEngine) -> bool:
    family = FAMILIES.get(engine.family)
    if family is None or engine.phi is None or engine.rule is None:
        return False
    try:
        return family.scale_for(engine.phi, rule=engine.rule).side_px == engine.side_px
    except DeployError:  # a phi that the rule does not reach
        return False


def _told_apart(records: Sequence[Record | LayerProfile]) -> list[Record | LayerProfile]:
    """Engines that are alike in all but their bytes are told apart by their file, in what made them.

    Without that, two ways to quantize one network would be one series.
    """
    digests: dict[Hashable, dict[str, str]] = {}
    for each in records:
        alike = digests.setdefault((network_name(each.engine), setup_of(each)), {})
        alike.setdefault(each.engine.sha256, each.engine.name)
    return [
        each if len(alike) == 1 else replace(each, engine=_with_file(each.engine, alike))
        for each in records
        for alike in (digests[network_name(each.engine), setup_of(each)],)
    ]


def _with_file(engine: MeasuredEngine, names: Mapping[str, str]) -> MeasuredEngine:
    """With its file in its compiler: the first name it had here, and its digest where others share that."""
    file = names[engine.sha256]
    if list(names.values()).count(file) > 1:
        file = f"{file} {engine.sha256[:6]}"
    return replace(engine, compiler=f"{engine.compiler}, {file}")


def _latest(records: Sequence[T]) -> tuple[T, ...]:
    by_measurement = {_measurement(each): each for each in sorted(records, key=lambda each: each.started)}
    return tuple(sorted(by_measurement.values(), key=lambda each: (each.engine.macs, each.engine.name)))


def _measurement(record: Record | LayerProfile) -> Hashable:
    how = record.method if isinstance(record, Record) else record.batch
    return (record.engine.sha256, network_name(record.engine), setup_of(record), how)
