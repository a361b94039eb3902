"""How long a batch takes: measured here, recorded there, or predicted; in this order of trust."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from deploykit.gpu_catalog.gpus import THIS_MACHINE, Gpu, find_gpu, normalized_names, normalized_synonyms
from deploykit.networks.families.registry import FAMILIES, is_builtin
from deploykit.networks.member import Member
from deploykit.networks.scaling import Scale
from deploykit.planning.cost_model.cost_model import can_predict, predict_latency
from deploykit.util.errors import DeployError
from deploykit.util.local_gpu import local_gpu
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from deploykit.bench.record import Record

DEFAULT_FOLDER = Path("records")

PREDICTED_PRECISIONS: tuple[Precision, ...] = ("fp16", "int8")
"""Between which one would choose on a GPU, the default first."""

T = TypeVar("T")
Evidence = Literal["measured", "recorded", "predicted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one batch, and the throughput of batches one after another.

    Attributes:
        expected_ms, low_ms, high_ms: predicted, the middle and the ends of an interval; measured and
            recorded, all three are the percentile asked for.
        images_per_s, low_images_per_s: what is expected, and the unfavourable end of its interval; measured
            and recorded, of all the time that the batches took, whatever percentile was asked for.
        is_rough: the samples are too few to bound the percentile.
        has_figures: predicted, whether its precision is among the published figures; True of all else.
    """

    expected_ms: float
    low_ms: float
    high_ms: float
    images_per_s: float
    low_images_per_s: float
    evidence: Evidence
    is_rough: bool = False
    has_figures: bool = True


class Clock(Protocol):
    """Says how long a batch takes."""

    @property
    def title(self) -> str: ...

    @property
    def measures(self) -> bool:
        """Whether asking takes seconds."""
        ...

    def precision_for(self, asked: Precision | None) -> Precision:
        """That, or what suits best.

        Raises:
            DeployError: there is no such precision there.
        """
        ...

    @property
    def compared(self) -> tuple[Precision, ...]:
        """The precisions between which one would choose, the default first."""
        ...

    def latency(self, member: Member, *, precision: Precision, batch: int) -> Latency: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a record has to be of, to stand for a network.

    Attributes: classes: how many the network has; None where that was not recorded.
    """

    family: str
    scale: Scale | None
    precision: Precision | None
    batch: int
    classes: int | None


class Predicted:
    """A GPU that isn't here: what was recorded on one, and else the cost model."""

    measures = False

    def __init__(self, gpu: Gpu, *, percentile: float, records: Iterable[Path] = ()) -> None:
        """Args: records: files or folders; of a folder, those of this GPU.

        Raises:
            DeployError: a file is no record of single requests, or of another machine or network.
        """
        self._gpu, self.title = gpu, gpu.name
        self._recorded: dict[Key, Latency] = {}
        for path in records:
            self._add(path, percentile)

    @property
    def compared(self) -> tuple[Precision, ...]:
        known: tuple[Precision, ...] = tuple(
            each for each in PREDICTED_PRECISIONS if can_predict(self._gpu, each)
        )
        return known or PREDICTED_PRECISIONS[:1]

    def precision_for(self, asked: Precision | None) -> Precision:
        return asked or "fp16"

    def latency(self, member: Member, *, precision: Precision, batch: int) -> Latency:
        key = _key(member, precision=precision, batch=batch)
        if (recorded := _found(self._recorded, key)) is not None:
            return recorded
        found = predict_latency(member.network(), self._gpu, precision=precision, batch=batch)
        return Latency(
            expected_ms=found.latency_ms,
            low_ms=found.low_ms,
            high_ms=found.high_ms,
            images_per_s=1000 * batch / found.latency_ms,
            low_images_per_s=1000 * batch / found.high_ms,
            evidence="predicted",
            has_figures=found.has_figures,
        )

    def _add(self, path: Path, percentile: float) -> None:
        from deploykit.bench.record_file import read_record

        if path.is_dir():
            mine = [record for record in _latencies(path) if self._is_mine(record)]
        else:
            mine = [read_record(path)]
            if not self._is_mine(mine[0]):
                raise DeployError(
                    f"{path} was measured on {mine[0].machine.name}, which is no {self.title}.",
                    code="record-wrong-gpu",
                    fix="leave it out, or name that machine with --gpu",
                )
            _require_latency(mine[0], path)
        for record in mine:
            self._recorded[key_of(record)] = _latency_of(record, percentile, "recorded")

    def _is_mine(self, record: "Record") -> bool:
        """Whether it names the GPU by a name that it has, or that a known GPU shares with it."""
        return not normalized_names(self._gpu).isdisjoint(normalized_synonyms(record.machine.name))


class Measured:
    """On this machine: what its folder of records has, and else a measurement, which goes there."""

    measures = True

    def __init__(
        self,
        gpu: str,
        *,
        percentile: float,
        folder: Path,
        progress: Callable[[str], None] = lambda phase: None,
    ) -> None:
        """Raises: DeployError: no such GPU is here, or the folder holds a damaged record."""
        from deploykit.bench.machine import describe_machine
        from deploykit.bench.record import resolve_cpu_threads
        from deploykit.engine.compilers import COMPILERS
        from deploykit.engine.targets import resolve_target
        from deploykit.util.atomic_files import require_writable
        from deploykit.util.lazy_import import require

        self._target = resolve_target(gpu)
        version = require(COMPILERS[self._target.compiler].module).__version__
        self._compiler = f"{self._target.compiler_title} {version}"
        self._machine = describe_machine(on_cpu=self._target.on_cpu).name
        self._gpu, self._percentile, self._folder, self._progress = gpu, percentile, folder, progress
        self.title = self._target.name
        self._threads = resolve_cpu_threads(None) if self._target.on_cpu else None
        self.measurements = 0
        require_writable(folder / "record.json", option="--folder")
        self._known = self._read()

    @property
    def compared(self) -> tuple[Precision, ...]:
        return ("fp32", "int8") if self._target.on_cpu else ("fp16", "int8")

    def precision_for(self, asked: Precision | None) -> Precision:
        from deploykit.engine.targets import resolve_precision

        return resolve_precision(self._target, asked)

    def latency(self, member: Member, *, precision: Precision, batch: int) -> Latency:
        from deploykit.bench.measure_network import measure_latency
        from deploykit.bench.record_file import write_record

        key = _key(member, precision=precision, batch=batch)
        record = _found(self._known, key)
        if record is None or not self._is_of(record, member):
            self._progress(f"measuring {member.name}, batch {batch}")
            record = measure_latency(
                member,
                gpu=self._gpu,
                precision=precision,
                batch=batch,
                percentile=self._percentile,
            )
            self.measurements += 1
            write_record(record, self._folder)
            self._known[key] = record
        return _latency_of(record, self._percentile, "measured")

    def _is_of(self, record: "Record", member: Member) -> bool:
        """Whether a record that is called so is of that network: its family's file may have changed."""
        from deploykit.bench.measure_network import random_model_sha256

        return is_builtin(member.family) or record.engine.onnx_sha256 == random_model_sha256(member)

    def _read(self) -> dict[Key, "Record"]:
        return {
            key_of(record): record
            for record in _latencies(self._folder)
            if (record.machine.name, record.engine.compiler, record.method.threads)
            == (self._machine, self._compiler, self._threads)
        }


def _latency_of(record: "Record", percentile: float, evidence: Evidence) -> Latency:
    found, rate = record.percentile_ms(percentile), record.images_per_s
    return Latency(
        expected_ms=found.value,
        low_ms=found.value,
        high_ms=found.value,
        images_per_s=rate.value,
        low_images_per_s=rate.value if rate.low is None else rate.low,
        evidence=evidence,
        is_rough=found.high is None,
    )


def _latencies(folder: Path) -> "Iterator[Record]":
    """Records of one request after another, as a client sees them."""
    from deploykit.bench.record import Record
    from deploykit.bench.record_file import read_record_folder

    for record in read_record_folder(folder).records.values():
        if isinstance(record, Record) and _is_latency(record):
            yield record


def _is_latency(record: "Record") -> bool:
    return (record.method.scenario, record.method.scope) == ("single-stream", "end-to-end")


def _require_latency(record: "Record", path: Path) -> None:
    """Raises: DeployError: it stands for no network that a fit looks at."""
    method, family = record.method, FAMILIES.get(record.engine.family)
    if not _is_latency(record):
        raise DeployError(
            f"{path} is of scenario {method.scenario} and scope {method.scope}: no latency of requests one "
            "after another, end to end.",
            code="record-wrong-kind",
            fix="leave it out, or measure with deploykit bench without --scenario and --scope",
        )
    if family is not None and record.engine.classes not in (None, family.num_classes):
        raise DeployError(
            f"{path} is of a network with {record.engine.classes} classes, and {family.title} has "
            f"{family.num_classes}.",
            code="record-wrong-network",
            fix="leave it out, or measure one that was exported without --weights and --num-classes",
        )


def key_of(record: "Record") -> Key:
    return Key(
        family=record.engine.family,
        scale=record.engine.scale,
        precision=record.engine.precision,
        batch=record.method.batch,
        classes=record.engine.classes,
    )


def _key(member: Member, *, precision: Precision, batch: int) -> Key:
    return Key(
        family=member.family.name,
        scale=member.scale,
        precision=precision,
        batch=batch,
        classes=member.network().num_classes,
    )


def _found(known: Mapping[Key, T], key: Key) -> T | None:
    """What has as many classes, or else what doesn't tell them."""
    return known.get(key) or known.get(replace(key, classes=None))


def absent_gpu(name: str) -> Gpu | None:
    """The GPU to predict for; None where this machine itself is meant.

    Raises:
        DeployError: no GPU is called that.
    """
    if name.lower() in THIS_MACHINE:
        return None
    known, here = find_gpu(name), local_gpu()
    try:
        is_here = here is not None and find_gpu(here.name) == known
    except DeployError:  # the local one is not in the list
        is_here = False
    return None if is_here else known
