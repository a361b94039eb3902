"""Engines through Triton beside the bare Engine, on this machine.

    python benchmarks/serving.py [PYTHON [MS]]

PYTHON is what runs models in Triton, as of deploykit serve --python; default the one that runs this. MS is
the latency that the server scenario holds; where other work shares the cores, none near 100 ms may. Client
and server share the machine's cores, which a real deployment does not do: the ratios are upper bounds.

First one image after another: what a request costs. Then MLPerf's server scenario, images at random: the
highest rate whose 99th percentile holds; what waits is sent at once, as requests of one image each, for
Triton to put together or to run one by one. In turn, so that what the machine does meanwhile concerns all;
medians of the rounds, of which there are six and two. Last what a bound on Triton's queue does to requests
that never queue.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.bench.scenarios import run_single_stream
from deploykit.bench.server_scenario import search_server_rate
from deploykit.engine.build import build_engine
from deploykit.engine.shapes import BatchRange
from deploykit.networks.export import prepare_export
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.runtime import Engine
from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository
from deploykit.stats.latency_percentiles import percentile
from deploykit.util.errors import DeployError

ROUNDS, SECONDS = 6, 1.0
SERVER_ROUNDS, SERVER_SECONDS = 2, 1.0
SIDES_PX = (64, 224)
BATCH, MAX_LATENCY_MS = 8, 100.0
QUEUE, QUEUE_ROUNDS, QUEUE_REQUESTS = 64, 4, 2000
STALLED_MS = 300.0  # far above what any takes, and below the half second that some wait

Call = Callable[[int], object]


def main() -> None:
    python = sys.argv[1:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engines = {side_px: _engine(side_px, folder) for side_px in SIDES_PX}
        for side_px, path in engines.items():
            _write(folder / "models", path, ModelOptions(name=f"alone-{side_px}", batching=False))
        smallest = engines[SIDES_PX[0]]
        _write(folder / "models", smallest, ModelOptions(name="batched"))
        _write(folder / "models", smallest, ModelOptions(name="bounded", max_queue=QUEUE))
        with _served(folder / "models", python) as found:
            _print_single_stream(engines, found)
            bound_ms = float(sys.argv[2]) if len(sys.argv) > 2 else MAX_LATENCY_MS
            _print_server(smallest, SIDES_PX[0], found, bound_ms)
            _print_stalls(SIDES_PX[0], found)


def _write(models: Path, engine: Path, options: ModelOptions) -> None:
    write_repository(models, [engine], replace(options, backend="python", images=False))


def _engine(side_px: int, folder: Path) -> Path:
    model = folder / f"{side_px}.onnx"
    model.write_bytes(to_bytes(build_onnx_model(*prepare_export(0, side_px=side_px))))
    batches = [BatchRange(min=1, opt=BATCH, max=BATCH)]
    return build_engine(onnx=model, gpu="cpu", batches=batches, output=folder / f"{side_px}.cpu.onnx").path


@contextmanager
def _served(models: Path, python: list[str]) -> Iterator[dict[str, str]]:
    """Addresses of a server in processes of its own."""
    ports = [f"--{each}-port=0" for each in ("http", "grpc", "metrics")]
    which = [f"--python={each}" for each in python]
    command = [sys.executable, "-m", "deploykit", "serve", str(models), *ports, *which, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit("deploykit serve did not start: run it by hand to see why")
            text += line
        yield json.loads(text)
    finally:
        process.terminate()
        process.wait()


def _print_single_stream(engines: dict[int, Path], found: dict[str, str]) -> None:
    columns = ("", "Engine", "Triton, gRPC", "Triton, HTTP", "gRPC / Engine", "HTTP / Engine")
    print(f"| phi 0, one image after another | {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|")
    for side_px, path in engines.items():
        with Engine.load(path) as engine, ExitStack() as clients:
            images = _images(side_px)
            ways: dict[str, Callable[[], object]] = {
                "engine": lambda engine=engine, images=images: engine(images),  # type: ignore[misc]
                "grpc": clients.enter_context(_asking("grpc", found, f"alone-{side_px}", images)),
                "http": clients.enter_context(_asking("http", found, f"alone-{side_px}", images)),
            }
            taken = _in_turn(ways)
        for percent in (50, 99):
            of = {way: [percentile(each, percent) for each in rounds] for way, rounds in taken.items()}
            cells = [f"{statistics.median(of[way]):.2f} ms" for way in ways]
            cells += [f"{_ratio(of[way], of['engine']):.2f}" for way in ("grpc", "http")]
            print(f"| {side_px} px | p{percent} | {' | '.join(cells)} |", flush=True)


def _in_turn(ways: dict[str, Callable[[], object]]) -> dict[str, list[Any]]:
    taken: dict[str, list[Any]] = {way: [] for way in ways}
    for at in range(ROUNDS):
        for way in list(ways) if at % 2 else list(reversed(ways)):
            samples = run_single_stream(ways[way], batch=1, seconds=SECONDS, samples=100)
            taken[way].append(np.array(samples.latency_ms))
    return taken


def _print_server(path: Path, side_px: int, found: dict[str, str], bound_ms: float) -> None:
    images = _images(side_px)
    with (
        Engine.load(path) as engine,
        _asking_at_once(found, "batched", images) as batched,
        _asking_at_once(found, f"alone-{side_px}", images) as alone,
    ):

        def one_by_one(count: int) -> None:
            for _ in range(count):
                engine(images)

        many = np.repeat(images, BATCH, axis=0)
        ways: dict[str, tuple[Call, str]] = {
            f"Engine, batches of up to {BATCH}": (lambda count: engine(many[:count]), ""),
            "Triton, batching": (batched, f"Engine, batches of up to {BATCH}"),
            "Engine, one by one": (one_by_one, ""),
            "Triton, no batching": (alone, "Engine, one by one"),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        p99s: dict[str, list[float]] = {way: [] for way in ways}
        for at in range(SERVER_ROUNDS):
            for way in list(ways) if at % 2 else list(reversed(ways)):
                rate, p99 = _holding(ways[way][0], bound_ms, seed=at)
                rates[way].append(rate)
                p99s[way].append(p99)
    print()
    scenario = f"phi 0, {side_px} px, server scenario, p99 within {bound_ms:g} ms"
    print(f"| {scenario} | holds | p99 there | of the Engine's |")
    print("|---|---|---|---|")
    for way, (_, beside) in ways.items():
        rate, p99 = statistics.median(rates[way]), statistics.median(p99s[way])
        share = f"{_ratio(rates[way], rates[beside]):.2f}" if beside else ""
        print(f"| {way} | {rate:.0f} requests/s | {p99:.1f} ms | {share} |", flush=True)


def _print_stalls(side_px: int, found: dict[str, str]) -> None:
    images, requests = _images(side_px), QUEUE_REQUESTS // QUEUE_ROUNDS
    with (
        _asking("grpc", found, "batched", images) as unbounded,
        _asking("grpc", found, "bounded", images) as bounded,
    ):
        ways = {"no bound": unbounded, f"--max-queue {QUEUE}": bounded}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for at in range(QUEUE_ROUNDS):
            for way in list(ways) if at % 2 else list(reversed(ways)):
                samples = run_single_stream(ways[way], batch=1, seconds=0.01, samples=requests)
                taken[way] += samples.latency_ms
    print()
    print(f"| phi 0, {side_px} px, batching, one after another | over {STALLED_MS:g} ms | longest |")
    print("|---|---|---|")
    for way, latency_ms in taken.items():
        stalled = sum(each > STALLED_MS for each in latency_ms)
        print(f"| {way} | {stalled} of {len(latency_ms)} | {max(latency_ms):.0f} ms |", flush=True)


def _holding(call: Call, bound_ms: float, *, seed: int) -> tuple[float, float]:
    """The rate that holds, and its 99th percentile in ms; NaN where the machine was too busy for any."""
    try:
        samples, trials = search_server_rate(
            call, batch=BATCH, max_latency_ms=bound_ms, seconds=SERVER_SECONDS, seed=seed
        )
    except DeployError as error:
        print(f"note: {error.problem}", file=sys.stderr)
        return math.nan, math.nan
    rate = max(trial.rate_per_s for trial in trials if trial.holds)
    return rate, percentile(np.array(samples.latency_ms), 99)


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Of each round, and of these the median."""
    return statistics.median(own / other for own, other in zip(ours, theirs, strict=True))


def _images(side_px: int) -> Any:
    return np.random.default_rng(0).standard_normal((1, 3, side_px, side_px), np.float32)


@contextmanager
def _client(protocol: str, found: dict[str, str]) -> Iterator[tuple[Any, Any]]:
    import tritonclient.grpc
    import tritonclient.http

    module: Any = getattr(tritonclient, protocol)
    with module.InferenceServerClient(found[protocol].partition("://")[2]) as client:
        yield module, client


@contextmanager
def _asking(protocol: str, found: dict[str, str], model: str, images: Any) -> Iterator[Callable[[], object]]:
    with _client(protocol, found) as (module, client):

        def ask() -> object:
            given = module.InferInput("input", images.shape, "FP32")
            given.set_data_from_numpy(images)
            return client.infer(model, [given]).as_numpy("logits")

        yield ask


@contextmanager
def _asking_at_once(found: dict[str, str], model: str, images: Any) -> Iterator[Call]:
    """So many requests of one image each, over gRPC, and waits for all."""
    with _client("grpc", found) as (module, client):
        given = module.InferInput("input", images.shape, "FP32")
        given.set_data_from_numpy(images)

        def ask(count: int) -> None:
            done, failed = threading.Semaphore(0), []

            def answered(result: Any, error: Any) -> None:
                if error is not None:
                    failed.append(error)
                done.release()

            for _ in range(count):
                client.async_infer(model, [given], answered)
            for _ in range(count):
                done.acquire()
            if failed:
                raise failed[0]

        yield ask


if __name__ == "__main__":
    main()
