"""Bootstrap intervals, against distributions whose means are known."""

import numpy as np
import pytest
from refusals import refuses
from stats_cases import coverage, generator, wandering

from deploykit.stats.bootstrap import block_length, bootstrap, estimate_mean, estimate_ratio
from deploykit.stats.latency_percentiles import estimate_percentile, row_percentile


def test_mean_intervals_contain_the_truth_at_their_confidence():
    held = coverage(lambda random: random.gamma(4, 1, 200), 4.0, estimate_mean, trials=200)
    assert 0.91 <= held <= 0.99


def test_correlated_samples_widen_the_interval():
    """If they were treated as independent, the intervals would contain the mean in only 67 % of trials."""
    wandered = [wandering(generator(seed)) for seed in range(100)]
    for estimate in (estimate_mean, lambda samples: estimate_percentile(samples, 50)):
        result = map(estimate, wandered)
        assert np.mean([each.low <= 20 <= each.high for each in result]) >= 0.88
    assert block_length(wandering(generator())) > 5
    assert block_length(generator().normal(0, 1, 1000)) == 1


def test_the_mean_of_too_few_samples_has_an_open_interval():
    assert estimate_mean(np.arange(1.0, 10)).interval == ""
    assert estimate_mean(np.arange(1.0, 11)).interval != ""


def test_the_ratio_of_too_few_samples_has_an_open_interval():
    first, second = generator().lognormal(1, 0.1, (2, 200))
    median = row_percentile(50)
    assert estimate_ratio(first, 2 * second, median, least=20).contains(2.0)
    assert estimate_ratio(first[:19], second, median, least=20).interval == ""


def test_a_seed_determines_the_resamples():
    samples = generator().exponential(1, 100)
    mean = lambda rows: rows.mean(axis=1)  # noqa: E731
    first, again, other = (bootstrap(samples, mean, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("wrong", [[], [1.0, float("nan")], [1.0, float("inf")]])
def test_missing_and_non_finite_samples_are_refused(wrong):
    for estimate in (estimate_mean, lambda samples: estimate_percentile(samples, 50)):
        with refuses("samples-invalid"):
            estimate(np.array(wrong))
