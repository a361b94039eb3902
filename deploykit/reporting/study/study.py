"""Run a study; an interrupted study continues where it stopped."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.bench.benchmark import benchmark
from deploykit.bench.layers.layer_profile import LayerProfile, profile_engine
from deploykit.bench.machine import describe_machine
from deploykit.bench.measure_network import build_random_engine, random_model_sha256
from deploykit.bench.record import Record, resolve_cpu_threads
from deploykit.bench.record_file import read_record_folder, write_record
from deploykit.engine.compilers import COMPILERS
from deploykit.networks.families.registry import DEFAULT_FAMILY, is_builtin
from deploykit.networks.scaling import AXES, Axis
from deploykit.reporting.study.plan import CALLS, StudyStep, plan_study
from deploykit.reporting.study.settings import StudySettings, resolve_settings
from deploykit.util.atomic_files import require_writable
from deploykit.util.lazy_import import require
from deploykit.util.progress import Progress, no_progress
from deploykit.util.types import Precision

SECONDS = 3.0  # each measurement takes at least this long


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRecord:
    """A record that a study has just written.

    Attributes:
        number: How many of the study's records exist now, from 1 to `count`.
        count: How many records the study has in total.
    """

    path: Path
    record: Record | LayerProfile
    number: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The result of a study.

    Attributes:
        records: Every record of the study, from the least work to the most.
        written: Records that this run wrote.
        strays: JSON files in the folder that are not records.
    """

    records: tuple[Path, ...]
    written: tuple[Path, ...]
    strays: tuple[Path, ...]


def run_study(
    folder: str | Path,
    *,
    gpu: str = "local",
    family: str = DEFAULT_FAMILY,
    phis: Sequence[float] = (),
    precisions: Sequence[Precision] = (),
    batches: Sequence[int] = (),
    axes: Sequence[Axis] = AXES,
    threads: int | None = None,
    seconds: float = SECONDS,
    on_start: Callable[[int, int], None] = lambda existing, count: None,
    on_record: Callable[[FinishedRecord], None] = lambda finished: None,
    progress: Progress = no_progress,
) -> Study:
    """Build each network with random weights, which is enough for latency, and measure it.

    Args:
        folder: Where records are written. Measurements that it has already are not repeated.
        gpu: `local`, `cpu`, or the name of the GPU in this machine.
        family: Name or file of a family, see `networks.families.registry`.
        phis: Default the published members, or 0 to 3 if only one was published.
        precisions: Default FP32 and INT8 on a CPU, FP16 and INT8 on a GPU.
        batches: Batch sizes for throughput; default 1 to 8 on a CPU, 1 to 128 on a GPU.
        axes: Axes to scale alone, in addition.
        threads: CPU threads; default one per core.
        seconds: Shortest duration of each measurement.
        on_start: Called once with the number of records that exist already, and the total.
        on_record: Called after each record is written.
        progress: Called with the stage `measuring`, the work done and the total work.

    Raises:
        DeployError: The GPU is not in this machine, an argument is out of range, or the folder cannot be
            written or has a damaged record.
    """
    settings = resolve_settings(
        Path(folder),
        gpu=gpu,
        family=family,
        phis=phis,
        precisions=precisions,
        batches=batches,
        threads=threads,
    )
    steps = plan_study(
        settings.family,
        phis=settings.phis,
        precisions=settings.precisions,
        batches=settings.batches,
        axes=axes,
    )
    require_writable(settings.folder / "record.json")
    paths, strays = _find_existing(steps, settings)
    missing = [step for step, path in paths.items() if path is None]
    existing = len(steps) - len(missing)
    on_start(existing, len(steps))
    total = sum(step.macs for step in steps)
    done = total - sum(step.macs for step in missing)
    written: list[Path] = []
    progress("measuring", done, total)
    for _, same_engine in groupby(missing, key=lambda step: (step.member.name, step.precision)):
        group = tuple(same_engine)
        first = group[0]
        with build_random_engine(
            first.member, gpu=gpu, precision=first.precision, batches=settings.batch_ranges
        ) as engine:
            for step in group:
                record = _measure(step, engine, threads=threads, seconds=seconds)
                paths[step] = path = write_record(record, settings.folder)
                written.append(path)
                number = existing + len(written)
                on_record(FinishedRecord(path=path, record=record, number=number, count=len(steps)))
                done += step.macs
                progress("measuring", done, total)
    return Study(
        records=tuple(path for path in paths.values() if path is not None),
        written=tuple(written),
        strays=strays,
    )


def _find_existing(
    steps: Sequence[StudyStep], settings: StudySettings
) -> tuple[dict[StudyStep, Path | None], tuple[Path, ...]]:
    """Return each step's record, None if it is missing, and files in the folder that are not records."""
    folder = read_record_folder(settings.folder)
    existing = {
        _record_key(record): path
        for path, record in folder.records.items()
        if not isinstance(record, AccuracyRecord)
    }
    paths = {step: existing.get(_step_key(step, settings)) for step in steps}
    if not is_builtin(settings.family):  # a user's family file may have changed since
        for step, path in paths.items():
            record = folder.records.get(path) if path is not None else None
            if isinstance(record, Record | LayerProfile):
                is_current = record.engine.onnx_sha256 == random_model_sha256(step.member)
                paths[step] = path if is_current else None
    return paths, folder.strays


def _measure(step: StudyStep, engine: Path, *, threads: int | None, seconds: float) -> Record | LayerProfile:
    if step.kind == "layers":
        return profile_engine(engine, batch=step.batch, threads=threads)
    return benchmark(
        engine,
        scenario=step.kind,
        batch=step.batch,
        seconds=seconds,
        samples=CALLS[step.kind],
        threads=threads,
    )


def _record_key(record: Record | LayerProfile) -> Hashable:
    """Return what a record must share with a step to be its record."""
    if isinstance(record, Record):
        how: Hashable = (record.method.scenario, record.method.batch, record.method.threads)
    else:
        how = (record.kind, record.batch, record.threads)
    engine = record.engine
    return (engine.family, engine.scale, engine.precision, how, record.machine.name, engine.compiler)


def _step_key(step: StudyStep, settings: StudySettings) -> Hashable:
    """Return the same of a step on this machine with the installed versions."""
    on_cpu = settings.target.on_cpu
    how = (step.kind, step.batch, resolve_cpu_threads(settings.threads) if on_cpu else None)
    version = require(COMPILERS[settings.target.compiler].module).__version__
    compiler = f"{settings.target.compiler_title} {version}"
    machine = describe_machine(on_cpu=on_cpu).name
    return (step.member.family.name, step.member.scale, step.precision, how, machine, compiler)
