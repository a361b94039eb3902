"""MLPerf's server scenario on a fake clock, compared with queueing theory."""

import itertools
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from math import factorial

import numpy as np
import pytest
from fake_clock import FakeClock
from refusals import refuses

from deploykit.bench.server_scenario import Trial, search_server_rate


def serve(service_ms: Callable[[int], float], *, batch: int = 1, max_latency_ms: float, seconds: float = 60):
    """Search the rate of a server with this service time, on a fake clock."""
    stage = FakeClock([])

    def call(images: int) -> None:
        assert 1 <= images <= batch
        stage.sizes.append(images)
        stage.now_s += service_ms(images) / 1000

    found, trials = search_server_rate(
        call,
        batch=batch,
        max_latency_ms=max_latency_ms,
        seconds=seconds,
        search_seconds=100_000,
        clock=stage.clock,
    )
    return found, trials, stage.sizes


def best_rate(trials: tuple[Trial, ...]) -> float:
    return max(trial.rate_per_s for trial in trials if trial.holds)


@pytest.mark.parametrize(("load", "waiting"), [(0.5, 4.0), (0.8, 11.0)])
def test_the_rate_agrees_with_queueing_theory(load, waiting):
    """Compare with M/D/1, whose 99th percentile of waiting is this many service times.

    P(W <= t) = (1 - load) sum over k <= t of (load (k - t))^k / k! exp(-load (k - t)), Erlang 1909.
    """
    service_ms = 10.0
    bound = service_ms * (1 + percentile_of_waiting(load, 0.99))
    _, trials, _ = serve(lambda _: service_ms, max_latency_ms=bound, seconds=200)
    assert best_rate(trials) == pytest.approx(100 * load, rel=0.08)
    assert percentile_of_waiting(load, 0.99) == pytest.approx(waiting, rel=0.3)


def percentile_of_waiting(load: float, share: float) -> float:
    """Return a percentile of the waiting time in M/D/1, in service times."""

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
    """Return e^value exactly: the terms cancel, so that floats would leave nothing."""
    return Fraction(Decimal(value).exp(Context(prec=60)))


def test_a_short_run_does_not_hide_a_growing_queue():
    """At twice the engine's 1,000 images/s, images are late by 1 s only after one more second."""
    _, trials, _ = serve(lambda _: 1.0, max_latency_ms=1000, seconds=0.1)
    assert best_rate(trials) < 1.06 * 1000


def test_running_waiting_images_together_meets_a_higher_rate():
    service = lambda images: 8.0 + images  # noqa: E731  # a batch of eight takes little more than one image
    found, alone, _ = serve(service, max_latency_ms=60)
    batched, trials, sizes = serve(service, batch=8, max_latency_ms=60)
    assert best_rate(trials) > 2.5 * best_rate(alone)
    assert set(sizes) == set(range(1, 9))
    assert (found.batch, batched.batch) == (1, 8)


def test_latency_counts_from_the_scheduled_arrival():
    """One call in a hundred stalls; images that arrive during it are late too, and are counted."""
    calls = itertools.count()
    found, _, _ = serve(lambda _: 200.0 if next(calls) % 100 == 50 else 1.0, max_latency_ms=400, seconds=10)
    late = np.array(found.latency_ms) > 10
    assert late.mean() > 0.02


def test_the_rate_that_meets_the_bound_is_next_to_one_that_does_not():
    found, trials, _ = serve(lambda _: 10.0, max_latency_ms=30)
    failing = min(trial.rate_per_s for trial in trials if not trial.holds)
    assert 1 < failing / best_rate(trials) <= 1.05
    assert np.percentile(found.latency_ms, 99, method="inverted_cdf") <= 30
    for trial in trials:
        assert trial.requests >= 2000 or not trial.holds


def test_a_single_disturbance_does_not_fail_a_rate():
    """A stall of ten seconds fails only the run in which it happens."""
    calls = itertools.count()
    _, quiet, _ = serve(lambda _: 10.0, max_latency_ms=30)
    _, once, _ = serve(lambda _: 10_000.0 if next(calls) == 3000 else 10.0, max_latency_ms=30)
    assert best_rate(once) == best_rate(quiet)
    assert once != quiet


def test_arrivals_have_the_reported_rate():
    found, trials, _ = serve(lambda _: 4.0, max_latency_ms=12, seconds=60)
    assert len(found.latency_ms) / found.seconds == pytest.approx(best_rate(trials), rel=0.03)


def test_a_bound_below_a_single_image_is_refused_right_after_warming_up():
    stage = FakeClock(itertools.repeat(10.0))
    with refuses("latency-unattainable"):
        search_server_rate(stage.call, batch=1, max_latency_ms=5, clock=stage.clock)
    assert stage.calls == 20


def test_a_bound_that_the_lowest_rate_misses_is_refused():
    calls = itertools.count()
    with refuses("latency-unattainable"):
        serve(lambda _: 10.0 + 10 * (next(calls) % 10 == 0), max_latency_ms=12)


def searched(search_seconds: float, **changes):
    """Search with an engine that takes 100 ms, so that a run of 1,000 images takes at least 140 s."""
    stage, told = FakeClock(itertools.repeat(100.0)), []
    _, trials = search_server_rate(
        stage.call,
        batch=1,
        max_latency_ms=1000,
        search_seconds=search_seconds,
        clock=stage.clock,
        progress=lambda stage, done=0, total=None: told.append((stage, total and done / total)),
        **changes,
    )
    return trials, told, stage.now_s


def test_a_search_ends_in_time_with_its_best_rate():
    whole, _, _ = searched(100_000)
    cut, _, seconds = searched(1000)
    assert seconds <= 1010  # with its warm-up
    assert cut == whole[: len(cut)]
    assert 1 < len(cut) < len(whole)


def test_a_search_without_time_for_any_rate_is_refused():
    with refuses("rate-search-inconclusive"):
        searched(400)


def test_a_higher_number_of_samples_is_respected():
    trials, _, _ = searched(100_000, samples=1500)
    assert min(each.requests for each in trials if each.holds) >= 3000


def test_progress_names_the_rate_and_the_fraction_done():
    _, told, _ = searched(1000)
    assert told[0] == ("warming up", None)
    assert told[1][0] == "trial 1: 7 images/s (10 is not met), run 1 of 2 or 3"
    fractions = [fraction for phase, fraction in told if phase == told[1][0]]
    assert fractions == sorted(fractions)
    assert 90 <= len(fractions) <= 101
    assert any("is met, 10 is not)" in phase for phase, _ in told)


@pytest.mark.parametrize("bound", [0, -1, float("nan"), float("inf")])
def test_an_invalid_bound_is_refused(bound):
    with refuses("invalid-latency-target"):
        serve(lambda _: 10.0, max_latency_ms=bound)
