import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from served import colours

from deploykit.bench.benchmark import benchmark
from deploykit.bench.compare import IGNORABLE_FIELDS, compare_records
from deploykit.bench.machine import GpuState, MachineState, describe_disturbances, describe_machine
from deploykit.bench.record import Record, comparison_key
from deploykit.bench.server_scenario import Trial
from deploykit.engine.build import build_engine
from deploykit.engine.shapes import BatchRange
from deploykit.runtime import Engine
from deploykit.util.atomic_files import file_sha256


@pytest.fixture(scope="module")
def engine(random_b0, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("cpu") / "model.onnx"
    return build_engine(
        onnx=random_b0.path, gpu="cpu", batches=[BatchRange(min=1, opt=2, max=4)], output=output
    ).path


@pytest.fixture(scope="module")
def measured(engine) -> Record:
    return benchmark(engine, seconds=0.2, threads=1)


def with_samples(record: Record, samples: np.ndarray, **changes) -> Record:
    latency = tuple(map(float, samples))
    return replace(record, latency_ms=latency, seconds=sum(latency) / 1000, **changes)


QUIET = MachineState(moment_s=0, cpu_mhz=None, busy_s=0, own_s=0, load=0)


# ---------------------------------------------------------------- measuring


def test_a_record_contains_every_sample_the_method_the_engine_and_the_machine(engine, measured):
    assert len(measured.latency_ms) >= 100
    assert 500 * measured.seconds < sum(measured.latency_ms) <= 1000 * measured.seconds
    assert measured.seconds >= 0.2
    assert len(measured.warm_up_ms) >= 10
    method = measured.method
    assert (method.scenario, method.scope, method.threads) == ("single-stream", "end-to-end", 1)
    assert (method.cuda_graph, method.max_latency_ms, measured.trials) == (None, None, ())
    facts = measured.engine
    assert (facts.name, facts.sha256, facts.precision) == (engine.name, file_sha256(engine), "fp32")
    assert (facts.family, facts.phi, facts.target) == ("efficientnet", 0.0, "the CPU")
    assert facts.macs == pytest.approx(33e6, rel=0.05)  # 0.39 G at 224 px, of (64 / 224)^2 as many pixels
    assert measured.runtime == facts.compiler
    assert measured.machine == describe_machine(on_cpu=True)


def test_the_default_batch_is_the_one_the_engine_is_tuned_for(engine):
    assert benchmark(engine, seconds=0.01, samples=1).method.batch == 2


def test_by_default_all_cores_are_used_and_recorded(engine):
    record = benchmark(engine, seconds=0.01, samples=1)
    assert record.method.threads == record.machine.cores == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
@pytest.mark.parametrize("batch", [1, 3])
def test_each_timed_call_processes_a_whole_batch(engine, batch, scenario, monkeypatch):
    sizes: list[tuple[int, int]] = []
    call = Engine.__call__

    def watched(loaded: Engine, images: np.ndarray) -> np.ndarray:
        answers = call(loaded, images)
        sizes.append((len(images), len(answers)))
        return answers

    monkeypatch.setattr(Engine, "__call__", watched)
    record = benchmark(engine, scenario=scenario, batch=batch, seconds=0.01, samples=20, threads=1)
    assert set(sizes) == {(batch, batch)}
    assert len(sizes) >= len(record.latency_ms) + len(record.warm_up_ms)


def test_throughput_is_images_over_the_time_they_took(measured):
    record = with_samples(measured, np.array([10.0, 30, 20, 20] * 50))
    assert record.images_per_s.value == pytest.approx(1000 * record.method.batch / 20)
    assert record.images_per_s.low < record.images_per_s.value < record.images_per_s.high


def test_the_server_scenario_meets_its_bound(tmp_path):
    quick = colours(tmp_path)
    record = benchmark(quick, scenario="server", batch=4, max_latency_ms=500, seconds=0.1, threads=1)
    assert record.percentile_ms(99).value <= 500
    assert record.images_per_s.value == max(each.rate_per_s for each in record.trials if each.holds)
    assert record.images_per_s.high > record.images_per_s.value
    assert len(record.latency_ms) >= 1000


@pytest.mark.parametrize("batch", [0, -1, 5])
def test_a_batch_outside_the_engines_range_is_refused(engine, batch):
    with refuses("batch-out-of-range"):
        benchmark(engine, batch=batch, seconds=0.01)


@pytest.mark.parametrize("threads", [0, -2, 10**6])
def test_an_impossible_number_of_threads_is_refused(engine, threads):
    with refuses("invalid-thread-count"):
        benchmark(engine, threads=threads, seconds=0.01)


@pytest.mark.parametrize("options", [{"scenario": "server"}, {"max_latency_ms": 10}])
def test_a_latency_bound_needs_the_server_scenario(engine, options):
    with refuses("option-not-applicable"):
        benchmark(engine, **options)


def test_a_missing_engine_is_refused(tmp_path):
    with refuses("engine-not-found"):
        benchmark(tmp_path / "none.engine")


# ---------------------------------------------------------------- the machine


def test_the_cpu_has_the_name_that_the_system_reports():
    machine = describe_machine(on_cpu=True)
    assert machine.kind == "cpu"
    assert f": {machine.name}\n" in Path("/proc/cpuinfo").read_text()
    assert machine.driver is None


COOL = GpuState(sm_mhz=1590, memory_mhz=5000, temperature_c=50, power_w=60)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            QUIET,
            replace(QUIET, moment_s=10, busy_s=7, own_s=1),
            f"Other processes used {600 / 10 / len(os.sched_getaffinity(0)):.0f} % of the",
        ),
        (
            replace(QUIET, gpu=COOL),
            replace(QUIET, gpu=replace(COOL, throttled=("power cap",), sm_mhz=1580)),
            "The GPU was throttled (power cap) at 1580 MHz.",
        ),
        (
            replace(QUIET, gpu=COOL),
            replace(QUIET, gpu=replace(COOL, sm_mhz=900)),
            "The GPU's clock changed from 1590 to 900 MHz.",
        ),
    ],
)
def test_disturbances_of_the_machine_are_described(before, after, said):
    machine = describe_machine(on_cpu=True)
    assert [said in each for each in describe_disturbances(machine, before, after)] == [True]
    assert describe_disturbances(machine, QUIET, QUIET) == ()
    (said,) = describe_disturbances(replace(machine, kind="gpu"), QUIET, QUIET)
    assert "could not be read" in said
    assert describe_disturbances(machine, replace(QUIET, gpu=COOL), replace(QUIET, gpu=COOL)) == ()


# ---------------------------------------------------------------- remarks


def test_drift_and_two_modes_are_described_with_their_size(measured):
    random, quiet = np.random.default_rng(0), replace(measured, before=QUIET, after=QUIET)
    steady = random.lognormal(1, 0.02, 2000)
    assert with_samples(quiet, steady).caveats == ()
    assert with_samples(quiet, steady * np.linspace(1, 1.3, 2000)).caveats == (
        "The run drifts: latency rose by 19 % during the run.",
    )
    slow = np.where(random.random(2000) < 0.4, 1.5, 1)
    (said,) = with_samples(quiet, steady * slow).caveats
    assert said == "The latencies have two modes: 2.72 ms, and 4.07 ms in 39 % of the calls."


@pytest.mark.parametrize(
    ("count", "rough"), [(1000, []), (999, ["p99"]), (100, ["p99"]), (99, ["p90", "p99"])]
)
def test_percentiles_from_too_few_samples_are_marked(measured, count, rough):
    record = with_samples(
        replace(measured, before=QUIET, after=QUIET), np.random.default_rng(0).lognormal(1, 0.02, count)
    )
    assert [each.split(" from ")[0] for each in record.caveats] == rough


# ---------------------------------------------------------------- comparing


def pair(measured: Record, factor: float, *, spread: float = 0.05) -> tuple[Record, Record]:
    first, second = (np.random.default_rng(seed).lognormal(1, spread, 1000) for seed in (1, 2))
    return with_samples(measured, first), with_samples(measured, factor * second)


def test_the_interval_of_a_ratio_of_medians_contains_it(measured):
    found = compare_records(*pair(measured, 0.8))
    assert found.ratio.low < 0.8 < found.ratio.high
    assert found.ratio.high - found.ratio.low < 0.03
    assert found.is_significant
    assert found.ratio.value == pytest.approx(found.second / found.first)
    assert not compare_records(*pair(measured, 1.0)).is_significant


def test_the_interval_of_a_ratio_has_its_nominal_coverage(measured):
    random, held = np.random.default_rng(3), 0
    for _ in range(300):
        records = (with_samples(measured, random.exponential(1, 150)) for _ in range(2))
        ratio = compare_records(*records).ratio
        held += ratio.low <= 1 <= ratio.high
    assert 0.92 <= held / 300 <= 0.98


def test_offline_records_are_compared_by_throughput(measured):
    first, second = (
        replace(each, method=replace(each.method, scenario="offline")) for each in pair(measured, 0.5)
    )
    found = compare_records(first, second)
    assert found.figure == "images/s"
    assert found.ratio.low < 2 < found.ratio.high


def test_server_records_are_compared_by_the_rates_that_enclose_them(measured):
    def served(low: float, high: float) -> Record:
        trials = tuple(
            Trial(rate_per_s=rate, requests=1000, late=0, holds=holds)
            for rate, holds in ((low, True), (high, False))
        )
        method = replace(measured.method, scenario="server", max_latency_ms=10)
        return replace(measured, method=method, trials=trials)

    found = compare_records(served(100, 105), served(200, 210))
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == (2, 200 / 105, 210 / 100)


UNLIKE = {
    "batch": 3,
    "threads": 7,
    "cuda_graph": True,
    "in_flight": 2,
}


@pytest.mark.parametrize(("name", "value"), UNLIKE.items())
def test_records_of_different_methods_are_refused_unless_ignored(measured, name, value):
    other = replace(measured, method=replace(measured.method, **{name: value}))
    with refuses("records-not-comparable") as caught:
        compare_records(measured, other)
    assert f"--ignore {name}" in caught.value.fix
    assert compare_records(measured, other, ignore=[name]).ignored == (name,)


def test_records_of_another_machine_are_refused(measured):
    other = replace(measured, machine=replace(measured.machine, name="Abacus", cores=10))
    with refuses("records-not-comparable"):
        compare_records(measured, other)
    assert compare_records(measured, other, ignore=["machine", "cores"]).ignored == ("machine", "cores")


def test_latency_is_not_compared_with_throughput(measured):
    other = replace(measured, method=replace(measured.method, scenario="offline"))
    with refuses("records-not-comparable"):
        compare_records(measured, other, ignore=["scenario"])


def test_an_unknown_field_cannot_be_ignored(measured):
    assert set(comparison_key(measured)) == set(IGNORABLE_FIELDS)
    with refuses("unknown-field"):
        compare_records(measured, measured, ignore=["weather"])
