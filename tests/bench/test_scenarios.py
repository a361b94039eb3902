import itertools
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from fake_clock import FakeClock
from refusals import refuses

from deploykit.bench.scenarios import DEFAULT_SAMPLES, Samples, run_offline, run_sequential, run_single_stream
from deploykit.util.errors import DeployError

WARM_UP_CALLS = 10  # two windows of five, where nothing gets faster


def measure(latencies_ms: Iterable[float], *, seconds: float = 1.0, samples: int = 10, **options) -> Samples:
    stage = FakeClock(latencies_ms)
    found = run_single_stream(
        stage.call, batch=1, seconds=seconds, samples=samples, clock=stage.clock, **options
    )
    assert stage.calls == len(found.warm_up_ms) + len(found.latency_ms)
    assert found.seconds == pytest.approx(sum(found.latency_ms) / 1000)
    return found


def test_known_latencies_are_measured_correctly():
    samples = measure(itertools.cycle([9.0, 10.0, 11.0, 10.0]))
    assert len(samples.latency_ms) == pytest.approx(100, abs=1)
    assert np.unique(np.round(samples.latency_ms, 6)) == pytest.approx([9, 10, 11])


def test_samples_stay_in_order():
    samples = measure([*[10.0] * WARM_UP_CALLS, *range(50, 150)], seconds=0.7)
    assert samples.latency_ms == pytest.approx(range(50, 50 + len(samples.latency_ms)))


def test_warm_up_ends_when_calls_get_no_faster_and_is_recorded_separately():
    falling = [100.0, 90, 80, 70, 60, 50, 40, 30, 20, 19, 18, 17, 16, 15, 14]
    samples = measure(itertools.chain(falling, itertools.repeat(10.0)))
    assert samples.latency_ms == pytest.approx([10] * len(samples.latency_ms))
    assert samples.warm_up_ms[: len(falling)] == pytest.approx(falling)
    assert len(samples.warm_up_ms) < 40


def test_a_steady_engine_is_warm_after_two_windows():
    assert len(measure(itertools.repeat(10.0)).warm_up_ms) == WARM_UP_CALLS


def test_an_engine_that_never_settles_is_measured_after_ten_seconds():
    shrinking = (1000 * 0.95**index for index in itertools.count())
    samples = measure(itertools.chain(itertools.islice(shrinking, 200), itertools.repeat(0.01)), seconds=0.01)
    assert 10_000 <= sum(samples.warm_up_ms) < 10_000 + 5 * 1000


def test_slow_calls_are_still_measured_often_enough():
    assert len(measure(itertools.repeat(2000.0), seconds=1, samples=25).latency_ms) == 25
    stage = FakeClock(itertools.repeat(2000.0))
    found = run_single_stream(stage.call, batch=1, seconds=1, clock=stage.clock)
    assert len(found.latency_ms) == DEFAULT_SAMPLES == 100


@pytest.mark.parametrize(("seconds", "calls"), [(0.5, 50), (2, 200)])
def test_measuring_lasts_for_the_requested_time(seconds, calls):
    assert len(measure(itertools.repeat(10.0), seconds=seconds).latency_ms) == pytest.approx(calls, abs=1)


def test_progress_rises_to_one():
    fractions: list[float] = []
    measure(itertools.repeat(10.0), progress=lambda stage, done, total: fractions.append(done / total))
    assert fractions == sorted(fractions)
    assert fractions[0] == pytest.approx(0.01)
    assert fractions[-1] >= 1 - 1e-9


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_an_invalid_duration_is_refused_before_anything_runs(seconds):
    stage = FakeClock([])
    with refuses("invalid-duration"):
        run_single_stream(stage.call, batch=1, seconds=seconds, clock=stage.clock)
    assert stage.calls == 0


def test_an_infinite_duration_is_refused():
    with refuses("invalid-duration"):
        measure([10.0] * 1000, seconds=float("inf"))


def test_an_error_in_the_call_is_passed_on():
    def fail() -> Callable[[], None]:
        raise DeployError("It broke.", code="broken", fix="mend it")

    with refuses("broken"):
        run_single_stream(fail, batch=1)


@pytest.mark.parametrize("samples", [0, -1, 10**9])
def test_an_invalid_number_of_samples_is_refused(samples):
    with refuses("invalid-sample-count"):
        run_single_stream(FakeClock([]).call, batch=1, samples=samples)


def test_calls_that_return_their_time_are_measured_for_the_requested_time():
    stage = FakeClock(itertools.repeat(10.0))
    numbers = itertools.count(1)

    def sample() -> float:
        stage.call()
        return next(numbers) / 1000

    found = run_sequential(sample, batch=1, seconds=0.5, samples=10, clock=stage.clock)
    assert len(found.latency_ms) == pytest.approx(50, abs=1)
    assert found.seconds == pytest.approx(0.5, abs=0.011)
    warm = len(found.warm_up_ms)
    assert found.warm_up_ms == tuple(at / 1000 for at in range(1, warm + 1))
    assert found.latency_ms == tuple(at / 1000 for at in range(warm + 1, warm + 1 + len(found.latency_ms)))


def test_warm_up_lasts_at_most_ten_seconds():
    stage = FakeClock(itertools.repeat(10.0))
    shrinking = (0.9**index for index in itertools.count())

    def sample() -> float:
        stage.call()
        return next(shrinking)

    found = run_sequential(sample, batch=1, seconds=0.1, clock=stage.clock)
    assert len(found.warm_up_ms) == pytest.approx(1000, abs=5)


# ---------------------------------------------------------------- offline


def test_offline_calls_are_concurrent_and_all_count():
    most, running, lock = 0, 0, threading.Lock()

    def call() -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    found = run_offline(call, batch=8, in_flight=4, seconds=0.01)
    assert most == 4
    assert len(found.latency_ms) >= DEFAULT_SAMPLES
    assert sum(found.latency_ms) == pytest.approx(1000 * found.seconds)


def test_one_call_in_flight_is_sequential():
    stage = FakeClock(itertools.repeat(10.0))
    found = run_offline(stage.call, batch=8, in_flight=1, seconds=1, clock=stage.clock)
    assert found.latency_ms == pytest.approx([10] * 100, abs=1e-6)


def test_an_error_in_one_call_ends_all():
    calls = itertools.count()

    def fail_later() -> None:
        if next(calls) > 50:
            raise DeployError("It broke.", code="broken", fix="mend it")

    with refuses("broken"):
        run_offline(fail_later, batch=1, in_flight=3, seconds=0.1)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_run_too_long_for_a_record_is_refused_after_warming_up(in_flight):
    stage = FakeClock(itertools.repeat(0.05 * in_flight))
    with refuses("too-many-samples") as caught:
        run_offline(stage.call, batch=1, in_flight=in_flight, seconds=60, clock=stage.clock)
    assert stage.calls == 10
    assert "--seconds 25" in caught.value.fix  # 50 s are full
