"""The scopes of a benchmark, over a stub driver; see test_gpu_runner.py."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from cuda_stub import driver
from cuda_stub.loaded import TENSORRT, Loaded, loaded, over_the_stub, whole_numbers

from deploykit.bench.benchmark import benchmark
from deploykit.bench.record import Record
from deploykit.bench.scenarios import Clock
from deploykit.bench.scopes import open_sampler
from deploykit.cli.bench import command

pytestmark = pytest.mark.usefixtures("cuda_stub")

BATCH = 8
PACE = {"launch_us": 20, "copy_us": 30, "model_us": 120, "gpu_copy_us": 50, "gpu_us": 400}


@contextmanager
def benchable(engine: Loaded) -> Iterator[None]:
    """Let every load return this engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deploykit.runtime.Engine.load", lambda path, **options: engine.engine)
        patch.setattr("deploykit.bench.machine._query_nvml", lambda question: None)  # the stub has none
        yield


def measured(engine: Loaded, **options) -> Record:
    with benchable(engine):
        return benchmark("model.engine", batch=BATCH, seconds=0.01, samples=20, **options)


# An end-to-end call begins a copy (30 us), which the GPU ends 50 us later; meanwhile the host launches. Then
# come computing (400 us) and the copy back (50 us), for which the host is done sooner.
EXPECTED_MS = {"end-to-end": 0.53, "device": 0.4, "host": 0.02}


@pytest.mark.parametrize("scope", EXPECTED_MS)
@over_the_stub
def test_each_scope_times_its_part_of_a_call(scope):
    clock = Clock(now_s=driver.host_s)
    driver.pace(**PACE)
    with loaded() as engine, open_sampler(engine.engine, whole_numbers(BATCH), scope, clock=clock) as sample:
        assert [sample() for _ in range(6)][1:] == pytest.approx([EXPECTED_MS[scope]] * 5)


@over_the_stub
def test_a_device_benchmark_times_only_the_gpu():
    driver.pace(**PACE)
    with loaded() as engine:
        record = measured(engine, scope="device")
    assert (record.method.scope, record.method.scenario) == ("device", "single-stream")
    assert len(record.latency_ms) >= 20
    assert record.latency_ms == pytest.approx([0.4] * len(record.latency_ms))


@over_the_stub
def test_a_scope_is_printed_with_its_latency_and_without_a_throughput():
    driver.pace(**PACE)
    with loaded() as engine, benchable(engine):
        options = ["--scope", "device", "--batch", str(BATCH), "--seconds", "0.01", "--samples", "20"]
        shown = CliRunner().invoke(command, ["model.engine", *options])
    assert shown.exit_code == 0, shown.output
    assert re.search(r"^8 +0\.4 ms \(0\.4 to 0\.4\) ", shown.output, re.MULTILINE)
    assert "single-stream, device, CUDA graphs" in shown.output
    assert "images/s" not in shown.output


@over_the_stub
def test_a_host_benchmark_uses_the_hosts_clock():
    with loaded() as engine:
        record = measured(engine, scope="host")
    assert record.method.scope == "host"
    assert all(0 < taken < 1000 for taken in record.latency_ms)


@pytest.mark.parametrize(
    ("scope", "asked", "can_be_captured", "expected"),
    [
        ("end-to-end", True, True, True),
        ("end-to-end", True, False, False),
        ("end-to-end", False, True, False),
        ("device", True, True, True),
        ("device", True, False, False),
    ],
)
@over_the_stub
def test_a_record_says_whether_calls_used_graphs_not_what_was_requested(
    scope, asked, can_be_captured, expected
):
    with loaded(cuda_graphs=asked) as engine:
        engine.trt.is_capturable = can_be_captured
        assert measured(engine, scope=scope, cuda_graphs=asked).method.cuda_graph is expected


@over_the_stub
def test_a_server_with_some_batches_outside_graphs_records_no_graphs():
    with loaded() as engine:
        engine.trt.refuses = lambda shape, capturing: capturing and shape[0] == 1
        record = measured(engine, scenario="server", max_latency_ms=1000)
        assert record.method.cuda_graph is False


@over_the_stub
def test_tensorrt_engines_support_every_scope():
    driver.pace(**PACE)
    with loaded(TENSORRT) as engine, engine.engine.time_calls(whole_numbers(BATCH)) as call:
        assert call.device_ms() == pytest.approx(0.4)
