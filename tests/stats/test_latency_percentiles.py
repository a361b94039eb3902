"""Percentiles and their intervals, against distributions whose percentiles are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_cases import coverage, generator

from deploykit.stats.bootstrap import estimate_mean
from deploykit.stats.latency_percentiles import estimate_percentile, percentile, required_samples


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
def test_percentile_intervals_contain_the_truth_at_their_confidence(draw, quantile, percent, count):
    held = coverage(
        lambda random: draw(random, count),
        quantile(percent / 100),
        lambda samples: estimate_percentile(samples, percent),
    )
    assert 0.92 <= held <= 0.98


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(0, 1), (1, 1), (50, 50), (50.5, 51), (90, 90), (99, 99), (99.5, 100), (100, 100)],
)
def test_a_percentile_is_an_observed_sample(percent, expected):
    assert percentile(np.arange(100, 0, -1.0), percent) == expected


@pytest.mark.parametrize(("percent", "count"), [(50, 20), (90, 100), (99, 1000), (99.9, 10_000)])
def test_a_percentile_requires_ten_samples_beyond_it(percent, count):
    assert required_samples(percent) == count


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300), st.sampled_from([1, 50, 90, 99]))
def test_an_interval_contains_its_estimate_and_stays_within_the_samples(values, percent):
    samples = np.array(values)
    for result in (estimate_percentile(samples, percent), estimate_mean(samples)):
        assert result.contains(result.value * (1 + 1e-12)) or result.contains(result.value * (1 - 1e-12))
        assert result.low is None or samples.min() * (1 - 1e-12) <= result.low
        assert result.high is None or result.high <= samples.max() * (1 + 1e-12)


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
def test_an_interval_is_open_with_too_few_samples(percent, count, is_open):
    result = estimate_percentile(generator().exponential(1, count), percent)
    assert (result.low is None, result.high is None) == is_open


def test_an_interval_is_open_with_too_few_independent_samples():
    """A hundred correlated samples bound p90 like about ten independent ones."""
    result = estimate_percentile(np.repeat(generator().exponential(1, 10), 10), 90)
    assert (result.low is not None, result.high) == (True, None)
