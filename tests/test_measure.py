import itertools
from collections.abc import Callable, Iterable

import pytest

from deploykit.bench.measure import MIN_SAMPLES, Samples, time_calls
from deploykit.errors import DeployError

WARM_UP_CALLS = 10  # two windows of five, where nothing gets faster


class Stage:
    """A clock, and a call that takes the next of these latencies by it."""

    def __init__(self, latencies_ms: Iterable[float]) -> None:
        self.now_s = 0.0
        self.calls = 0
        self._latencies_ms = iter(latencies_ms)

    def clock_s(self) -> float:
        return self.now_s

    def call(self) -> None:
        self.calls += 1
        self.now_s += next(self._latencies_ms) / 1000


def measure(latencies_ms: Iterable[float], *, batch: int = 1, seconds: float = 1.0, **options) -> Samples:
    stage = Stage(latencies_ms)
    samples = time_calls(stage.call, batch=batch, seconds=seconds, clock_s=stage.clock_s, **options)
    assert stage.calls == len(samples.warm_up_ms) + len(samples.latency_ms)
    return samples


def samples_of(*latency_ms: float, batch: int = 1) -> Samples:
    return Samples(batch=batch, warm_up_ms=(), latency_ms=latency_ms)


@pytest.mark.parametrize(
    ("percent", "latency_ms"),
    [(0, 1), (1, 1), (50, 50), (50.5, 51), (90, 90), (99, 99), (99.5, 100), (100, 100)],
)
def test_a_percentile_is_the_latency_that_so_many_calls_stay_at_or_under(percent, latency_ms):
    assert samples_of(*reversed(range(1, 101))).percentile_ms(percent) == latency_ms


def test_a_percentile_is_one_that_was_observed():
    assert samples_of(10, 20).percentile_ms(50) == 10
    assert samples_of(10, 20).percentile_ms(51) == 20
    assert samples_of(7).percentile_ms(99) == 7


def test_throughput_is_images_over_the_time_they_took():
    # 4 calls of 8 images in 80 ms.
    assert samples_of(10, 30, 20, 20, batch=8).images_per_s == pytest.approx(8 * 4 / 0.080)


def test_known_latencies_are_measured_as_they_are():
    samples = measure(itertools.cycle([9.0, 10.0, 11.0, 10.0]), batch=4)
    assert samples.batch == 4
    assert len(samples.latency_ms) == pytest.approx(100, abs=1)
    assert samples.percentile_ms(50) == pytest.approx(10)
    assert samples.percentile_ms(99) == pytest.approx(11)
    assert samples.images_per_s == pytest.approx(400, rel=0.01)


def test_samples_stay_in_the_order_they_came_in():
    samples = measure([*[10.0] * WARM_UP_CALLS, *range(50, 150)], seconds=0.7)
    assert samples.latency_ms == pytest.approx(range(50, 50 + len(samples.latency_ms)))


def test_warm_up_ends_when_calls_get_no_faster_and_is_not_counted():
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


def test_slow_calls_are_measured_often_enough_whatever_the_time():
    samples = measure(itertools.repeat(2000.0), seconds=1)
    assert len(samples.latency_ms) == MIN_SAMPLES == 10


@pytest.mark.parametrize(("seconds", "calls"), [(0.5, 50), (2, 200)])
def test_measuring_lasts_as_long_as_asked(seconds, calls):
    assert len(measure(itertools.repeat(10.0), seconds=seconds).latency_ms) == pytest.approx(calls, abs=1)


def test_progress_rises_to_one():
    fractions: list[float] = []
    measure(itertools.repeat(10.0), progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[0] == pytest.approx(0.01)
    assert fractions[-1] >= 1 - 1e-9


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_no_time_to_measure_in_is_refused_before_anything_runs(seconds):
    stage = Stage([])
    with pytest.raises(DeployError, match="seconds are no time to measure in"):
        time_calls(stage.call, batch=1, seconds=seconds, clock_s=stage.clock_s)
    assert stage.calls == 0


def test_endless_measuring_is_refused():
    with pytest.raises(DeployError):
        measure([10.0] * 1000, seconds=float("inf"))


def test_an_error_in_the_call_is_passed_on():
    def fail() -> Callable[[], None]:
        raise DeployError("It broke.", fix="mend it")

    with pytest.raises(DeployError, match="It broke"):
        time_calls(fail, batch=1)
