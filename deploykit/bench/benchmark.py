"""Measure an engine on this machine."""

from dataclasses import replace
from pathlib import Path

from deploykit.bench.images import random_images
from deploykit.bench.machine import describe_machine, read_machine_state
from deploykit.bench.record import MeasuredEngine, Method, Record, Scope, resolve_cpu_threads, utc_timestamp
from deploykit.bench.scenarios import (
    DEFAULT_SAMPLES,
    DEFAULT_SECONDS,
    Samples,
    Scenario,
    run_offline,
    run_sequential,
)
from deploykit.bench.scopes import open_sampler
from deploykit.bench.server_scenario import DEFAULT_SEARCH_SECONDS, Trial, search_server_rate
from deploykit.engine.compilers import COMPILERS
from deploykit.engine.manifest import EngineManifest
from deploykit.engine.shapes import round_up_batch
from deploykit.runtime import Engine
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.progress import Progress, no_progress

_GPU_IN_FLIGHT = 2  # one call copies while the other computes


def benchmark(
    engine: str | Path,
    *,
    scenario: Scenario = "single-stream",
    scope: Scope = "end-to-end",
    batch: int | None = None,
    max_latency_ms: float | None = None,
    seconds: float = DEFAULT_SECONDS,
    samples: int = DEFAULT_SAMPLES,
    search_seconds: float | None = None,
    threads: int | None = None,
    cuda_graphs: bool = True,
    progress: Progress = no_progress,
) -> Record:
    """Measure an engine in one of MLPerf's scenarios.

    Args:
        engine: An engine or bundle that this machine can run.
        scope: What is timed of a call. `device` and `host` need TensorRT on a GPU and `single-stream`.
        batch: Images per call, in `server` the maximum; default what the engine is tuned for.
        max_latency_ms: Bound on the 99th percentile of latency, for `server` only.
        seconds: Minimum duration.
        samples: Minimum number of calls; in `server`, of images in each run.
        search_seconds: Maximum duration of the search of `server`.
        threads: CPU threads; default one per core.
        cuda_graphs: See runtime.Engine.load.
        progress: Receives the progress of the measurement.

    Raises:
        DeployError: The engine is for another machine, does not take that batch, cannot meet the latency
            bound, or cannot time that scope.
    """
    _require_options_apply(scenario, scope, max_latency_ms, search_seconds)
    path = Path(engine)
    with Engine.load(path, threads=threads, cuda_graphs=cuda_graphs) as loaded:
        manifest = loaded.manifest
        on_cpu = manifest.target.on_cpu
        size = batch if batch is not None else manifest.batches[0].opt
        manifest.profile_for((size, *manifest.input.shape), manifest.input.dtype)
        method = Method(
            scenario=scenario,
            batch=size,
            scope=scope,
            in_flight=_GPU_IN_FLIGHT if scenario == "offline" and not on_cpu else 1,
            threads=resolve_cpu_threads(threads) if on_cpu else None,
            max_latency_ms=max_latency_ms,
        )
        started, before = utc_timestamp(), read_machine_state(on_cpu=on_cpu)
        measured, trials = _run(
            loaded,
            method,
            seconds=seconds,
            samples=samples,
            search_seconds=DEFAULT_SEARCH_SECONDS if search_seconds is None else search_seconds,
            progress=progress,
        )
        after = read_machine_state(on_cpu=on_cpu)
        method = replace(method, cuda_graph=loaded.used_cuda_graphs)  # not every shape can be captured
    return Record(
        engine=MeasuredEngine.from_manifest(path, manifest),
        method=method,
        machine=describe_machine(on_cpu=on_cpu),
        before=before,
        after=after,
        runtime=_runtime(manifest),
        started=started,
        latency_ms=measured.latency_ms,
        warm_up_ms=measured.warm_up_ms,
        seconds=measured.seconds,
        trials=trials,
    )


def _require_options_apply(
    scenario: Scenario, scope: Scope, max_latency_ms: float | None, search_seconds: float | None
) -> None:
    if (max_latency_ms is not None) != (scenario == "server"):
        raise DeployError(
            "--max-latency and --scenario server need each other.",
            code="option-not-applicable",
            fix="use both --scenario server and --max-latency 10ms, or neither",
        )
    if search_seconds is not None and scenario != "server":
        raise DeployError(
            f"--search-seconds does not apply to --scenario {scenario}, which does not search.",
            code="option-not-applicable",
            fix="leave out --search-seconds",
        )
    if scope != "end-to-end" and scenario != "single-stream":
        raise DeployError(
            f"--scope {scope} needs --scenario single-stream, but the scenario is {scenario}.",
            code="scope-not-applicable",
            fix="leave out --scope or --scenario",
        )


def _run(
    engine: Engine,
    method: Method,
    *,
    seconds: float,
    samples: int,
    search_seconds: float,
    progress: Progress,
) -> tuple[Samples, tuple[Trial, ...]]:
    manifest = engine.manifest
    images = random_images((method.batch, *manifest.input.shape), manifest.input.dtype)
    if method.scenario == "server":
        assert method.max_latency_ms is not None  # noqa: S101  # checked before
        return search_server_rate(
            lambda count: engine(images[: round_up_batch(manifest.batches, count)]),
            batch=method.batch,
            max_latency_ms=method.max_latency_ms,
            seconds=seconds,
            samples=samples,
            search_seconds=search_seconds,
            progress=progress,
        )

    if method.scenario == "offline":
        measured = run_offline(
            lambda: engine(images),
            batch=method.batch,
            in_flight=method.in_flight,
            seconds=seconds,
            samples=samples,
            progress=progress,
        )
        return measured, ()
    with open_sampler(engine, images, method.scope) as sample:
        measured = run_sequential(
            sample, batch=method.batch, seconds=seconds, samples=samples, progress=progress
        )
    return measured, ()


def _runtime(manifest: EngineManifest) -> str:
    facts = COMPILERS[manifest.target.compiler]
    return f"{facts.title} {require(facts.module).__version__}"
