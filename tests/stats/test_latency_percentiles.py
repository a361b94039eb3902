"""Against distributions whose percentiles are known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from deploykit.stats.estimate import Estimate, are_disjoint, ratio_between
from deploykit.stats.latency_percentiles import (
    block_length,
    bootstrap,
    detect_drift,
    detect_modes,
    estimate_mean,
    estimate_percentile,
    estimate_ratio,
    percentile,
    required_samples,
    row_percentile,
)

TRIALS = 1000


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def coverage(draw: Callable[[np.random.Generator], np.ndarray], truth: float, estimate: Callable) -> float:
    """The part of trials whose interval holds the truth."""
    random = generator(1)
    found = [estimate(draw(random)) for _ in range(TRIALS)]
    return float(np.mean([each.low <= truth <= each.high for each in found]))


@pytest.mark.parametrize("percent", [50, 90, 99])
@pytest.mark.parametrize("count", [1000, 2500])
@pytest.mark.parametrize(
    ("draw", "quantile"),
    [
        (lambda random, count: random.exponential(1, count), lambda part: -math.log(1 - part)),
        (lambda random, count: random.uniform(9, 11, count), lambda part: 9 + 2 * part),
        (lambda random, count: 5 + random.pareto(3, count), lambda part: 4 + (1 - part) ** (-1 / 3)),
    ],
    ids=["exponential", "uniform", "heavy tail"],
)
def test_intervals_of_percentiles_hold_the_truth_as_often_as_they_say(draw, quantile, percent, count):
    held = coverage(
        lambda random: draw(random, count),
        quantile(percent / 100),
        lambda samples: estimate_percentile(samples, percent),
    )
    assert 0.93 <= held <= 0.97


def test_intervals_of_the_mean_hold_the_truth_as_often_as_they_say():
    assert 0.93 <= coverage(lambda random: random.gamma(4, 1, 500), 4.0, estimate_mean) <= 0.97


def wandering(random: np.random.Generator, *, memory: float = 0.6, count: int = 1000) -> np.ndarray:
    """Neighbours are alike, as on machines whose clock changes."""
    steps, values = random.normal(0, 1, count), np.empty(count)
    values[0] = steps[0] / math.sqrt(1 - memory**2)
    for at in range(1, count):
        values[at] = memory * values[at - 1] + steps[at]
    return 20 + values


def test_samples_that_are_alike_count_for_less():
    """Taken for independent ones, they would hold the mean in 67 % of trials."""
    wandered = [wandering(generator(seed)) for seed in range(TRIALS)]
    for estimate in (estimate_mean, lambda samples: estimate_percentile(samples, 50)):
        found = map(estimate, wandered)
        assert np.mean([each.low <= 20 <= each.high for each in found]) >= 0.9
    assert block_length(wandering(generator())) > 5
    assert block_length(generator().normal(0, 1, 1000)) == 1


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(0, 1), (1, 1), (50, 50), (50.5, 51), (90, 90), (99, 99), (99.5, 100), (100, 100)],
)
def test_a_percentile_is_the_sample_that_so_many_stay_at_or_under(percent, expected):
    assert percentile(np.arange(100, 0, -1.0), percent) == expected


@pytest.mark.parametrize(("percent", "count"), [(50, 20), (90, 100), (99, 1000), (99.9, 10_000)])
def test_a_percentile_wants_ten_samples_beyond_it(percent, count):
    assert required_samples(percent) == count


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300), st.sampled_from([1, 50, 90, 99]))
def test_an_interval_holds_its_estimate_and_lies_among_the_samples(values, percent):
    samples = np.array(values)
    for found in (estimate_percentile(samples, percent), estimate_mean(samples)):
        assert found.contains(found.value * (1 + 1e-12)) or found.contains(found.value * (1 - 1e-12))
        assert found.low is None or samples.min() * (1 - 1e-12) <= found.low
        assert found.high is None or found.high <= samples.max() * (1 + 1e-12)


@pytest.mark.parametrize(
    ("percent", "count", "is_open"),
    [
        (99, 1000, (False, False)),
        (99, 999, (False, True)),
        (90, 100, (False, False)),
        (90, 99, (False, True)),
        (50, 20, (False, False)),
        (50, 19, (True, True)),
        (1, 999, (True, False)),
    ],
)
def test_an_interval_is_open_where_too_few_samples_bound_it(percent, count, is_open):
    found = estimate_percentile(generator().exponential(1, count), percent)
    assert (found.low is None, found.high is None) == is_open


def test_an_interval_is_open_where_alike_samples_count_for_too_few():
    """A hundred that wander bound p90 as some twenty would."""
    found = estimate_percentile(np.repeat(generator().exponential(1, 10), 10), 90)
    assert (found.low is not None, found.high) == (True, None)


def test_the_mean_of_too_few_samples_has_no_interval():
    assert estimate_mean(np.arange(1.0, 10)).interval == ""
    assert estimate_mean(np.arange(1.0, 11)).interval != ""


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(4.83, 4.888, "4.86 (4.83 to 4.888)"), (4.83, None, "4.86 (4.83 or more)"), (None, None, "4.86")],
)
def test_an_estimate_is_told_with_its_interval(low, high, words):
    assert str(Estimate(value=4.86, low=low, high=high)) == words


def test_intervals_with_an_open_end_are_not_apart_there():
    low, high, open_above = (
        Estimate(value=value, low=value - 1, high=end) for value, end in ((5, 6), (9, 10), (5, None))
    )
    assert are_disjoint(high, low)
    assert not are_disjoint(open_above, high)
    assert not are_disjoint(low, low)


def test_the_ratio_of_two_estimates_holds_the_truth_as_often_as_it_says():
    random, held = generator(5), 0
    for _ in range(TRIALS):
        estimates = (estimate_percentile(scale * random.exponential(1, 400), 50) for scale in (1, 2))
        held += ratio_between(*estimates).contains(2.0)
    assert 0.93 <= held / TRIALS <= 0.97


def test_a_ratio_is_open_where_its_parts_are():
    closed, above = (Estimate(value=4, low=2, high=end) for end in (8, None))
    assert ratio_between(closed, closed).interval != ""
    assert (ratio_between(closed, above).low is None, ratio_between(closed, above).high) == (False, None)
    assert (ratio_between(above, closed).low, ratio_between(above, closed).high is None) == (None, False)


def test_the_ratio_of_too_few_samples_has_no_interval():
    first, second = generator().lognormal(1, 0.1, (2, 200))
    median = row_percentile(50)
    assert estimate_ratio(first, 2 * second, median, least=20).contains(2.0)
    assert estimate_ratio(first[:19], second, median, least=20).interval == ""


def test_resamples_are_the_same_for_a_seed_and_others_for_another():
    samples = generator().exponential(1, 100)
    mean = lambda rows: rows.mean(axis=1)  # noqa: E731
    first, again, other = (bootstrap(samples, mean, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("wrong", [[], [1.0, float("nan")], [1.0, float("inf")]])
def test_what_is_no_samples_is_refused(wrong):
    for estimate in (estimate_mean, lambda samples: estimate_percentile(samples, 50)):
        with refuses("samples-invalid"):
            estimate(np.array(wrong))


# ---------------------------------------------------------------- drift and modes


@pytest.mark.parametrize("change", [-0.2, -0.1, 0.1, 0.2, 1.0])
def test_a_run_that_drifts_is_told_and_by_how_much(change):
    samples = generator().lognormal(1, 0.05, 1000) * np.linspace(1, 1 + change, 1000)
    assert detect_drift(samples) == pytest.approx((1 + change * 5 / 6) / (1 + change / 6) - 1, rel=0.15)


def test_a_step_in_the_middle_is_a_drift():
    samples = generator().lognormal(1, 0.05, 1000)
    samples[400:] *= 1.3
    assert detect_drift(samples) == pytest.approx(0.3, rel=0.1)


STABLE = {
    "log-normal": lambda random: random.lognormal(1, 0.3, 1000),
    "exponential": lambda random: 3 + random.exponential(1, 1000),
    "uniform": lambda random: random.uniform(9, 11, 1000),
    "of a coarse clock": lambda random: np.round(random.normal(1, 0.03, 1000), 2),
    "with stragglers": lambda random: np.where(
        random.random(1000) < 0.05, random.normal(15, 1, 1000), random.normal(10, 0.3, 1000)
    ),
    "wandering": wandering,
    "always the same": lambda random: np.full(1000, 3.0),
    "few": lambda random: random.lognormal(1, 0.3, 150),
}


@pytest.mark.parametrize("draw", STABLE.values(), ids=STABLE)
def test_a_stable_run_is_not_told_to_drift_or_to_have_two_modes(draw):
    random = generator()
    assert sum(detect_drift(draw(random)) is not None for _ in range(200)) <= 4
    assert sum(detect_modes(draw(random)) is not None for _ in range(200)) == 0


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.8])
def test_two_modes_are_told_with_where_they_are(share):
    random = generator()
    is_slow = random.random(2000) < share
    found = detect_modes(np.where(is_slow, random.normal(13, 0.3, 2000), random.normal(10, 0.3, 2000)))
    assert found.low == pytest.approx(10, rel=0.02)
    assert found.high == pytest.approx(13, rel=0.02)
    assert found.share == pytest.approx(share, abs=0.03)


def test_too_few_samples_say_nothing_of_either():
    rising = np.linspace(1, 2, 50)
    assert detect_drift(rising) is None
    assert detect_modes(np.array([1.0, 2.0] * 25)) is None
