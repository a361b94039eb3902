"""Measures an engine on this machine."""

from collections.abc import Callable
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
from deploykit.bench.server_scenario import DEFAULT_SEARCH_SECONDS, Trial, run_server
from deploykit.engine.compilers import COMPILERS
from deploykit.engine.manifest import EngineManifest
from deploykit.engine.shapes import round_up_batch
from deploykit.runtime import Engine
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

_GPU_IN_FLIGHT = 2  # the copies of one call while another computes

Report = Callable[[str, float | None], None]
"""Called with what is going on, and how much of it is done, from 0 to 1, where that is known."""


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
    progress: Report = lambda phase, fraction: None,
) -> Record:
    """Measures an engine in one of MLPerf's scenarios.

    Args:
        engine: an engine or bundle that this machine can run.
        scope: what is timed of a call; `device` and `host` for TensorRT on a GPU, in `single-stream`.
        batch: images a call, in `server` at most; default what the engine is tuned for.
        max_latency_ms: what `server` holds at the 99th percentile.
        seconds, samples: how long at least, and how many calls; in `server` of each run of a rate, images.
        search_seconds: how long `server` searches at most.
        threads: CPU threads; default one a core.
        cuda_graphs: see runtime.Engine.load.

    Raises:
        DeployError: the engine is for another machine, doesn't take that batch, can't hold the latency, or
            tells nothing of that scope.
    """
    if (max_latency_ms is not None) != (scenario == "server"):
        raise DeployError(
            "A bound on latency is what the server scenario is about, and no other.",
            code="option-not-applicable",
            fix="give both --scenario server and --max-latency 10ms, or neither",
        )
    if search_seconds is not None and scenario != "server":
        raise DeployError(
            f"{scenario} searches for nothing, whose time could be limited.",
            code="option-not-applicable",
            fix="leave out --search-seconds",
        )
    if scope != "end-to-end" and scenario != "single-stream":
        raise DeployError(
            f"What {scope} takes is told of one call after another, and {scenario} is timed end to end.",
            code="scope-not-applicable",
            fix="leave out --scope or --scenario",
        )
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
        found, trials = _run(
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
        engine=MeasuredEngine.of(path, manifest),
        method=method,
        machine=describe_machine(on_cpu=on_cpu),
        before=before,
        after=after,
        runtime=_runtime(manifest),
        started=started,
        latency_ms=found.latency_ms,
        warm_up_ms=found.warm_up_ms,
        seconds=found.seconds,
        trials=trials,
    )


def _run(
    engine: Engine,
    method: Method,
    *,
    seconds: float,
    samples: int,
    search_seconds: float,
    progress: Report,
) -> tuple[Samples, tuple[Trial, ...]]:
    manifest = engine.manifest
    images = random_images((method.batch, *manifest.input.shape), manifest.input.dtype)
    if method.scenario == "server":
        assert method.max_latency_ms is not None  # noqa: S101  # asked for above
        return run_server(
            lambda count: engine(images[: round_up_batch(manifest.batches, count)]),
            batch=method.batch,
            max_latency_ms=method.max_latency_ms,
            seconds=seconds,
            samples=samples,
            search_seconds=search_seconds,
            progress=progress,
        )

    def tell(fraction: float) -> None:
        progress(f"batch {method.batch}", fraction)

    if method.scenario == "offline":
        found = run_offline(
            lambda: engine(images),
            batch=method.batch,
            in_flight=method.in_flight,
            seconds=seconds,
            samples=samples,
            progress=tell,
        )
        return found, ()
    with open_sampler(engine, images, method.scope) as sample:
        found = run_sequential(sample, batch=method.batch, seconds=seconds, samples=samples, progress=tell)
    return found, ()


def _runtime(manifest: EngineManifest) -> str:
    facts = COMPILERS[manifest.target.compiler]
    return f"{facts.title} {require(facts.module).__version__}"
