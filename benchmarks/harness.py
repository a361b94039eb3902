"""deploykit bench beside a hand-written loop and MLPerf's LoadGen, around the same ONNX Runtime session.

    python benchmarks/harness.py

In turn, so that what the machine does meanwhile concerns all: single-stream latency (p50, p90), of a model
of a third of a millisecond, where what a harness costs shows, up to one of tens. The ratios are medians
over the rounds. Last, LoadGen's server scenario is run at the rate that `deploykit bench` found to hold.
"""

import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.bench.benchmark import benchmark
from deploykit.bench.scenarios import run_single_stream
from deploykit.engine.build import build_engine
from deploykit.networks.export import prepare_export
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.runtime import Engine
from deploykit.stats.latency_percentiles import percentile
from deploykit.util.errors import DeployError

ROUNDS, SECONDS = 12, 1.0
MODELS = ((0, 32), (0, 224), (3, 300))  # phi and side
PERCENTS = (50, 90)
MAX_LATENCY_MS = 50

Percentiles = tuple[float, ...]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| phi | side | | loop | deploykit | LoadGen | deploykit / loop | deploykit / LoadGen |")
        print("|---|---|---|---|---|---|---|---|")
        for phi, side_px in MODELS:
            for row in _rows(phi, side_px, folder):
                print(row, flush=True)
        print(_server(folder), flush=True)


def _rows(phi: float, side_px: int, folder: Path) -> list[str]:
    path = _engine(phi, side_px, folder)
    images = np.random.default_rng(0).standard_normal((1, 3, side_px, side_px), np.float32)
    with Engine.load(path) as engine:
        runner: Any = engine._runner
        session = runner._session  # two of them would differ by more than harnesses do
        ways: dict[str, Callable[[], Percentiles]] = {
            "loop": lambda: _loop(lambda: session.run(None, {"input": images})),
            "deploykit": lambda: _deploykit(lambda: engine(images)),
            "LoadGen": lambda: _loadgen(lambda: session.run(None, {"input": images}), folder),
        }
        found: dict[str, list[Percentiles]] = {way: [] for way in ways}
        for at in range(ROUNDS):
            order = list(ways) if at % 2 else list(reversed(ways))
            for way in order:
                found[way].append(ways[way]())
    rows = []
    for at, percent in enumerate(PERCENTS):
        of = {way: [each[at] for each in rounds] for way, rounds in found.items()}
        cells = [f"{statistics.median(of[way]):.3f} ms" for way in ways]
        cells += [f"{_ratio(of['deploykit'], of[way]):.3f}" for way in ("loop", "LoadGen")]
        rows.append(f"| {phi:g} | {side_px} px | p{percent} | {' | '.join(cells)} |")
    return rows


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Of each round, and of these the median."""
    return statistics.median(own / other for own, other in zip(ours, theirs, strict=True))


def _engine(phi: float, side_px: int, folder: Path) -> Path:
    model = folder / f"{phi:g}.{side_px}.onnx"
    model.write_bytes(to_bytes(build_onnx_model(*prepare_export(phi, side_px=side_px))))
    return build_engine(onnx=model, gpu="cpu").path


def _loop(call: Callable[[], object]) -> Percentiles:
    for _ in range(10):
        call()
    samples, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        samples.append(1000 * (time.perf_counter() - start))
    return tuple(percentile(np.array(samples), percent) for percent in PERCENTS)


def _deploykit(call: Callable[[], object]) -> Percentiles:
    found = np.array(run_single_stream(call, batch=1, seconds=SECONDS, samples=1).latency_ms)
    return tuple(percentile(found, percent) for percent in PERCENTS)


def _loadgen(call: Callable[[], object], folder: Path) -> Percentiles:
    import mlperf_loadgen

    settings = mlperf_loadgen.TestSettings()
    settings.scenario = mlperf_loadgen.TestScenario.SingleStream
    settings.min_duration_ms, settings.min_query_count = int(1000 * SECONDS), 10
    for _ in range(10):
        call()
    text = _run_loadgen(settings, call, folder)
    return tuple(
        float(re.findall(rf"^{percent}\.00 percentile latency \(ns\) *: *(\d+)", text, re.MULTILINE)[0]) / 1e6
        for percent in PERCENTS
    )


def _server(folder: Path) -> str:
    """The rate that deploykit finds to hold, and what LoadGen's server scenario makes of it."""
    import mlperf_loadgen

    path = _engine(0, 224, folder)
    try:
        record = benchmark(path, scenario="server", batch=1, max_latency_ms=MAX_LATENCY_MS)
    except DeployError as error:  # other processes leave no rate that holds
        return f"server, phi 0, 224 px: {error}"
    rate = record.images_per_s
    session = cpu_session(path)
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    settings = mlperf_loadgen.TestSettings()
    settings.scenario = mlperf_loadgen.TestScenario.Server
    settings.server_target_qps, settings.server_target_latency_ns = rate.value, int(MAX_LATENCY_MS * 1e6)
    settings.server_target_latency_percentile = 0.99
    settings.min_duration_ms, settings.min_query_count = 10_000, 1000
    text = _run_loadgen(settings, lambda: session.run(None, {"input": images}), folder)
    (p99,) = re.findall(r"^99\.00 percentile latency \(ns\) *: *(\d+)", text, re.MULTILINE)
    return (
        f"server, phi 0, 224 px, p99 within {MAX_LATENCY_MS} ms: deploykit finds {rate.value:.1f} images/s, "
        f"with a p99 of {record.percentile_ms(99).value:.1f} ms; LoadGen's p99 at that rate is "
        f"{float(p99) / 1e6:.1f} ms"
    )


def _run_loadgen(settings: Any, call: Callable[[], object], folder: Path) -> str:
    """LoadGen's summary of one run."""
    import mlperf_loadgen

    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly

    def issue(queries: list[Any]) -> None:
        for query in queries:
            call()
            mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(query.id, 0, 0)])

    log = mlperf_loadgen.LogSettings()
    log.log_output.outdir, log.log_output.copy_summary_to_stdout = str(folder), False
    log.enable_trace = False
    sut = mlperf_loadgen.ConstructSUT(issue, lambda: None)
    qsl = mlperf_loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    try:
        mlperf_loadgen.StartTestWithLogSettings(sut, qsl, settings, log)
    finally:
        mlperf_loadgen.DestroyQSL(qsl)
        mlperf_loadgen.DestroySUT(sut)
    return (folder / "mlperf_log_summary.txt").read_text()


if __name__ == "__main__":
    main()
