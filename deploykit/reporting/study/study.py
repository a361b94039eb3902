"""Runs a study; started again, it goes on where it was stopped."""

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
from deploykit.engine.shapes import MAX_BATCH, BatchRange
from deploykit.engine.targets import LOCAL, Target, resolve_precision, resolve_target
from deploykit.networks.families.registry import DEFAULT_FAMILY, find_family, is_builtin
from deploykit.networks.scaling import AXES, Axis
from deploykit.reporting.study.plan import CALLS, Step, plan_study
from deploykit.util.atomic_files import require_writable
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import local_gpu
from deploykit.util.types import Precision

CPU_BATCHES, GPU_BATCHES = (1, 2, 4, 8), (1, 8, 32, 128)
SECONDS = 3.0  # of each measurement, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A record that was written: which of the study's it is, of how many, those there before among them."""

    path: Path
    record: Record | LayerProfile
    number: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Attributes:
    records: all of it, from the least work to the most.
    written: those that were not there before.
    strays: JSON in the folder that is no record.
    """

    records: tuple[Path, ...]
    written: tuple[Path, ...]
    strays: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a study measures, and what it builds for that."""

    folder: Path
    target: Target
    batches: tuple[BatchRange, ...]
    threads: int | None


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
    begun: Callable[[int, int], None] = lambda there, count: None,
    progress: Callable[[float, float], None] = lambda done, total: None,
    finished: Callable[[Finished], None] = lambda record: None,
) -> Study:
    """Builds each network with random weights, which is right for latency, and measures it.

    Args:
        folder: where the records go. What was measured into it before is not measured again.
        gpu: `local`, `cpu`, or the name of the GPU that is here.
        family: see networks.families.registry.
        phis: default the published members, and 0 to 3 where those are one.
        precisions: default FP32 and INT8 on a CPU, FP16 and INT8 on a GPU.
        batches: of throughput; default 1 to 8 on a CPU, 1 to 128 on a GPU.
        axes: to stretch alone, besides.
        threads: CPU threads; default one a core.
        seconds: of each measurement, at least.
        begun: told how many of the records are there already, of how many.
        progress: told how much of the work is done, of how much.
        finished: told of each record that is written.

    Raises:
        DeployError: a GPU that isn't here, a phi, precision or batch there is not, or a folder that can't be
            written or holds a damaged record.
    """
    target = _here(gpu)
    if threads is not None and not target.on_cpu:
        raise DeployError(
            f"{target.title} has no CPU threads to set.",
            code="option-not-applicable",
            fix="leave out --threads",
        )
    chosen = tuple(precisions) or (("fp32", "int8") if target.on_cpu else ("fp16", "int8"))
    for precision in chosen:
        resolve_precision(target, precision)
    sizes = tuple(batches) or (CPU_BATCHES if target.on_cpu else GPU_BATCHES)
    if wrong := [size for size in sizes if not 1 <= size <= MAX_BATCH]:
        raise DeployError(
            f"A batch of {wrong[0]} is not between 1 and {MAX_BATCH}.",
            code="invalid-batch",
            fix="give --batch 1,8",
        )
    settings = Settings(
        folder=Path(folder),
        target=target,
        batches=tuple(BatchRange(min=size, opt=size, max=size) for size in sorted({1, *sizes})),
        threads=threads,
    )
    of_family = find_family(family)
    low, high = of_family.phi_range
    if wrong_phis := [phi for phi in phis if not low <= phi <= high]:
        raise DeployError(
            f"{of_family.title} is studied at phi {low:g} to {high:g}, not at {wrong_phis[0]:g}.",
            code="invalid-phi",
            fix=f"give --phi from {low:g} to {high:g}",
        )
    chosen_phis = phis or of_family.default_phis
    steps = plan_study(of_family, phis=chosen_phis, precisions=chosen, batches=sizes, axes=axes)
    require_writable(settings.folder / "record.json")
    folder_now = read_record_folder(settings.folder)
    there = {
        _key_of(record): path
        for path, record in folder_now.records.items()
        if not isinstance(record, AccuracyRecord)
    }
    paths = {step: there.get(_key(step, settings)) for step in steps}
    if not is_builtin(of_family):  # its file may have changed
        for step, path in paths.items():
            record = folder_now.records.get(path) if path is not None else None
            if isinstance(record, Record | LayerProfile) and record.engine.onnx_sha256 != random_model_sha256(
                step.member
            ):
                paths[step] = None
    missing = [step for step, path in paths.items() if path is None]
    begun(len(steps) - len(missing), len(steps))
    total = sum(step.macs for step in steps)
    done = total - sum(step.macs for step in missing)
    written: list[Path] = []
    progress(done, total)
    for _, of_one in groupby(missing, key=lambda step: (step.member.name, step.precision)):
        group = tuple(of_one)
        first = group[0]
        with build_random_engine(
            first.member, gpu=gpu, precision=first.precision, batches=settings.batches
        ) as engine:
            for step in group:
                record = _measured(step, engine, threads=threads, seconds=seconds)
                paths[step] = path = write_record(record, settings.folder)
                written.append(path)
                number = len(steps) - len(missing) + len(written)
                finished(Finished(path=path, record=record, number=number, count=len(steps)))
                done += step.macs
                progress(done, total)
    return Study(
        records=tuple(path for path in paths.values() if path is not None),
        written=tuple(written),
        strays=folder_now.strays,
    )


def _here(gpu: str) -> Target:
    """The target that gpu names, if it is on this machine."""
    here = local_gpu()
    if gpu.lower() == LOCAL and here is None:
        raise DeployError(
            "A study measures on this machine, which shows no NVIDIA GPU.",
            code="gpu-not-found",
            fix="give --gpu cpu, or see what is missing with deploykit doctor",
        )
    target = resolve_target(gpu)
    if target.on_cpu or (here is not None and target.runs_on(here)):
        return target
    other = "--gpu cpu" if here is None else "--gpu local"
    raise DeployError(
        f"A study measures on this machine, which is not {target.title}.",
        code="gpu-mismatch",
        fix=f"give {other}, or run it on that machine",
    )


def _measured(step: Step, engine: Path, *, threads: int | None, seconds: float) -> Record | LayerProfile:
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


def _key_of(record: Record | LayerProfile) -> Hashable:
    """What of it tells whether it is one of the study's."""
    if isinstance(record, Record):
        how: Hashable = (record.method.scenario, record.method.batch, record.method.threads)
    else:
        how = (record.kind, record.batch, record.threads)
    engine = record.engine
    return (engine.family, engine.scale, engine.precision, how, record.machine.name, engine.compiler)


def _key(step: Step, settings: Settings) -> Hashable:
    """The same of what is to be measured, by this machine and these versions."""
    on_cpu = settings.target.on_cpu
    how = (step.kind, step.batch, resolve_cpu_threads(settings.threads) if on_cpu else None)
    version = require(COMPILERS[settings.target.compiler].module).__version__
    compiler = f"{settings.target.compiler_title} {version}"
    return (
        step.member.family.name,
        step.member.scale,
        step.precision,
        how,
        describe_machine(on_cpu=on_cpu).name,
        compiler,
    )
