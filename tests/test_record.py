import json
import os
import platform
from pathlib import Path

import pytest

from deploykit.bench.record import benchmark, machine_name
from deploykit.engine.shapes import BatchRange
from deploykit.errors import DeployError
from deploykit.files import sha256_of
from deploykit.pipeline import build_engine


@pytest.fixture(scope="module")
def engine(random_b0, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("cpu") / "model.onnx"
    return build_engine(
        onnx=random_b0.path, gpu="cpu", batches=[BatchRange(min=1, opt=2, max=4)], output=output
    ).path


def test_a_record_keeps_every_sample_the_method_and_the_machine(engine):
    record = benchmark(engine, seconds=0.2, threads=1)
    fields = json.loads(json.dumps(record.summary()))
    assert fields["engine"] == str(engine)
    assert fields["engine_sha256"] == sha256_of(engine)
    assert (fields["precision"], fields["target"]) == ("fp32", "the CPU")
    assert fields["latency_ms"] == list(record.samples.latency_ms)
    assert len(fields["latency_ms"]) == fields["samples"] >= 10
    assert sum(fields["latency_ms"]) >= 200
    assert len(fields["warm_up_ms"]) == fields["method"]["warm_up_calls"] >= 10
    assert fields["method"]["scenario"] == "single-stream"
    assert "from the call to the answer" in fields["method"]["scope"]
    assert (fields["method"]["seconds"], fields["method"]["threads"]) == (0.2, 1)
    assert fields["machine"] == machine_name(on_cpu=True) != ""


def test_the_figures_of_a_record_are_those_of_its_samples(engine):
    fields = benchmark(engine, batch=4, seconds=0.1).summary()
    latencies = sorted(fields["latency_ms"])
    # The p-th percentile of n samples is the one in place ceil(p n / 100).
    for percent in (50, 90, 99):
        assert fields[f"p{percent}_ms"] == latencies[-(-percent * len(latencies) // 100) - 1]
    assert fields["images_per_s"] == pytest.approx(4000 * len(latencies) / sum(latencies))


def test_without_a_batch_the_one_the_engine_is_tuned_for_is_measured(engine):
    assert benchmark(engine, seconds=0.01).samples.batch == 2


def test_without_threads_all_cores_are_used_and_recorded(engine):
    assert benchmark(engine, seconds=0.01).threads == len(os.sched_getaffinity(0))


def test_a_larger_batch_takes_longer_and_not_twice_the_calls(engine):
    one, four = (benchmark(engine, batch=batch, seconds=0.2, threads=1) for batch in (1, 4))
    assert four.samples.percentile_ms(50) > 1.5 * one.samples.percentile_ms(50)


def test_the_processor_is_named_as_the_system_names_it():
    name = machine_name(on_cpu=True)
    assert name
    assert f": {name}\n" in Path("/proc/cpuinfo").read_text() or name == platform.machine()


@pytest.mark.parametrize("batch", [0, -1, 5])
def test_a_batch_the_engine_does_not_take_is_refused(engine, batch):
    with pytest.raises(DeployError, match="takes batches of 1 to 4 images"):
        benchmark(engine, batch=batch, seconds=0.01)


@pytest.mark.parametrize("threads", [0, -2, 10**6])
def test_threads_that_no_machine_has_are_refused(engine, threads):
    with pytest.raises(DeployError, match=f"{threads} threads are not between 1 and"):
        benchmark(engine, threads=threads, seconds=0.01)


def test_a_missing_engine_is_refused(tmp_path):
    with pytest.raises(DeployError, match="There is no engine"):
        benchmark(tmp_path / "none.engine")
