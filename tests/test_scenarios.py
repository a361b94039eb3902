import itertools
import threading
import time
from collections.abc import Callable, Iterable
from decimal import Context, Decimal
from fractions import Fraction
from math import factorial

import numpy as np
import pytest

from deploykit.bench.scenarios import DEFAULT_SAMPLES, Clock, Samples, Trial, offline, server, single_stream
from deploykit.errors import DeployError

WARM_UP_CALLS = 10  # two windows of five, where nothing gets faster


class Stage:
    """A clock, and a call that takes the next of these latencies by it."""

    def __init__(self, latencies_ms: Iterable[float]) -> None:
        self.now_s = 0.0
        self.calls = 0
        self.sizes: list[int] = []
        self.clock = Clock(now_s=lambda: self.now_s, sleep_s=self._sleep, spin_s=0)
        self._latencies_ms = iter(latencies_ms)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def call(self, images: int = 1) -> None:
        self.calls += 1
        self.sizes.append(images)
        self.now_s += next(self._latencies_ms) / 1000


def measure(latencies_ms: Iterable[float], *, seconds: float = 1.0, samples: int = 10, **options) -> Samples:
    stage = Stage(latencies_ms)
    found = single_stream(stage.call, batch=1, seconds=seconds, samples=samples, clock=stage.clock, **options)
    assert stage.calls == len(found.warm_up_ms) + len(found.latency_ms)
    assert found.seconds == pytest.approx(sum(found.latency_ms) / 1000)
    return found


def test_known_latencies_are_measured_as_they_are():
    samples = measure(itertools.cycle([9.0, 10.0, 11.0, 10.0]))
    assert len(samples.latency_ms) == pytest.approx(100, abs=1)
    assert np.unique(np.round(samples.latency_ms, 6)) == pytest.approx([9, 10, 11])


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
    assert len(measure(itertools.repeat(2000.0), seconds=1, samples=25).latency_ms) == 25
    stage = Stage(itertools.repeat(2000.0))
    found = single_stream(stage.call, batch=1, seconds=1, clock=stage.clock)
    assert len(found.latency_ms) == DEFAULT_SAMPLES == 100


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
        single_stream(stage.call, batch=1, seconds=seconds, clock=stage.clock)
    assert stage.calls == 0


def test_endless_measuring_is_refused():
    with pytest.raises(DeployError):
        measure([10.0] * 1000, seconds=float("inf"))


def test_an_error_in_the_call_is_passed_on():
    def fail() -> Callable[[], None]:
        raise DeployError("It broke.", fix="mend it")

    with pytest.raises(DeployError, match="It broke"):
        single_stream(fail, batch=1)


@pytest.mark.parametrize("samples", [0, -1, 10**9])
def test_no_samples_to_measure_are_refused(samples):
    with pytest.raises(DeployError, match="samples are not between"):
        single_stream(Stage([]).call, batch=1, samples=samples)


# ---------------------------------------------------------------- offline


def test_calls_run_at_once_and_throughput_is_of_all_of_them():
    most, running, lock = 0, 0, threading.Lock()

    def call() -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    found = offline(call, batch=8, in_flight=4, seconds=0.01)
    assert most == 4
    assert len(found.latency_ms) >= DEFAULT_SAMPLES
    assert sum(found.latency_ms) == pytest.approx(1000 * found.seconds)


def test_one_call_in_flight_is_one_after_another():
    stage = Stage(itertools.repeat(10.0))
    found = offline(stage.call, batch=8, in_flight=1, seconds=1, clock=stage.clock)
    assert found.latency_ms == pytest.approx([10] * 100, abs=1e-6)


def test_an_error_in_one_of_the_calls_ends_all():
    calls = itertools.count()

    def fail_later() -> None:
        if next(calls) > 50:
            raise DeployError("It broke.", fix="mend it")

    with pytest.raises(DeployError, match="It broke"):
        offline(fail_later, batch=1, in_flight=3, seconds=60)


# ---------------------------------------------------------------- server


def serve(service_ms: Callable[[int], float], *, batch: int = 1, max_latency_ms: float, seconds: float = 60):
    """A server that takes so long for so many images, by a clock of its own."""
    stage = Stage([])

    def call(images: int) -> None:
        assert 1 <= images <= batch
        stage.sizes.append(images)
        stage.now_s += service_ms(images) / 1000

    found, trials = server(
        call, batch=batch, max_latency_ms=max_latency_ms, seconds=seconds, clock=stage.clock
    )
    return found, trials, stage.sizes


def best_rate(trials: tuple[Trial, ...]) -> float:
    return max(trial.rate_per_s for trial in trials if trial.holds)


@pytest.mark.parametrize(("load", "waiting"), [(0.5, 4.0), (0.8, 11.0)])
def test_the_rate_found_is_queueing_theorys(load, waiting):
    """Of M/D/1, whose 99th percentile of waiting is at so many service times.

    P(W <= t) = (1 - load) sum over k <= t of (load (k - t))^k / k! exp(-load (k - t)), Erlang 1909.
    """
    service_ms = 10.0
    bound = service_ms * (1 + percentile_of_waiting(load, 0.99))
    _, trials, _ = serve(lambda _: service_ms, max_latency_ms=bound, seconds=600)
    assert best_rate(trials) == pytest.approx(100 * load, rel=0.08)
    assert percentile_of_waiting(load, 0.99) == pytest.approx(waiting, rel=0.3)


def percentile_of_waiting(load: float, share: float) -> float:
    """In service times."""

    def within(t: float) -> float:
        terms = (
            Fraction(-1) ** k
            * (Fraction(load) * (Fraction(t) - k)) ** k
            / factorial(k)
            * exact_exp(load * (t - k))
            for k in range(int(t) + 1)
        )
        return (1 - load) * float(sum(terms))

    return next(t for t in np.arange(0.0, 30, 0.1) if within(float(t)) >= share)


def exact_exp(value: float) -> Fraction:
    """The terms cancel each other: sums of floats would have nothing left."""
    return Fraction(Decimal(value).exp(Context(prec=60)))


def test_what_waits_is_run_together_and_holds_a_higher_rate():
    service = lambda images: 8.0 + images  # noqa: E731  # a batch of eight takes little more than one image
    found, alone, _ = serve(service, max_latency_ms=60)
    batched, trials, sizes = serve(service, batch=8, max_latency_ms=60)
    assert best_rate(trials) > 2.5 * best_rate(alone)
    assert set(sizes) == set(range(1, 9))
    assert (found.batch, batched.batch) == (1, 8)


def test_latency_counts_from_the_arrival_whatever_the_engine_does():
    """One call of a hundred stalls; those that arrive meanwhile are late too, and not left out."""
    calls = itertools.count()
    found, _, _ = serve(lambda _: 200.0 if next(calls) % 100 == 50 else 1.0, max_latency_ms=400, seconds=10)
    late = np.array(found.latency_ms) > 10
    assert late.mean() > 0.02


def test_the_rate_that_holds_is_next_to_one_that_does_not():
    found, trials, _ = serve(lambda _: 10.0, max_latency_ms=30)
    failing = min(trial.rate_per_s for trial in trials if not trial.holds)
    assert 1 < failing / best_rate(trials) <= 1.05
    assert np.percentile(found.latency_ms, 99, method="inverted_cdf") <= 30
    for trial in trials:
        assert trial.requests >= 1000 or trial.late > 10
        assert trial.holds == (trial.late <= trial.requests // 100)


def test_arrivals_are_poissons_at_the_rate_that_is_told():
    found, trials, _ = serve(lambda _: 1.0, max_latency_ms=3, seconds=60)
    assert len(found.latency_ms) / found.seconds == pytest.approx(best_rate(trials), rel=0.03)


def test_a_bound_that_one_image_alone_breaks_is_told_as_such():
    with pytest.raises(DeployError, match="No rate holds 5 ms: an image alone takes 10 ms"):
        serve(lambda _: 10.0, max_latency_ms=5)


@pytest.mark.parametrize("bound", [0, -1, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_refused(bound):
    with pytest.raises(DeployError, match="can't be held"):
        serve(lambda _: 10.0, max_latency_ms=bound)
