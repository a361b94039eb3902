import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploykit.quantize.calibration.histogram import BINS, Histogram

# Not of zeros alone: see test_zeros_alone_do_not_coarsen_the_bins.
VALUES = arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**127), 2.0**127, width=32)).filter(
    np.any
)
ORDINARY = arrays(np.float32, st.integers(1, 400), elements=st.floats(-1000, 1000, width=32)).filter(np.any)


def histogram_of(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def merged(*histograms: Histogram) -> Histogram:
    result = Histogram()
    for histogram in histograms:
        result.merge(histogram)
    return result


def assert_same(first: Histogram, second: Histogram) -> None:
    assert (first.amax, first.exponent) == (second.amax, second.exponent)
    np.testing.assert_array_equal(first.counts, second.counts)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_merging_is_commutative_and_equals_counting_everything(first, second):
    a, b = histogram_of(first), histogram_of(second)
    assert_same(merged(a, b), merged(b, a))
    assert_same(merged(a, b), histogram_of(np.concatenate([first, second])))
    assert_same(histogram_of(first, second), histogram_of(second, first))
    assert_same(histogram_of(first, second), merged(a, b))


@settings(deadline=None)
@given(VALUES, VALUES, VALUES)
def test_merging_is_associative(first, second, third):
    a, b, c = histogram_of(first), histogram_of(second), histogram_of(third)
    assert_same(merged(merged(a, b), c), merged(a, merged(b, c)))


@settings(deadline=None)
@given(VALUES, VALUES)
def test_merging_does_not_modify_the_other(first, second):
    other = histogram_of(second)
    histogram_of(first).merge(other)
    assert_same(other, histogram_of(second))


# Percents that are exact in binary, so that no rank is a matter of rounding.
@settings(deadline=None)
@given(ORDINARY, st.sampled_from([0.390625, 12.5, 25.0, 50.0, 75.0, 96.875, 99.609375, 100.0]))
def test_a_percentile_is_numpys_to_a_bins_width_and_never_above_amax(values, percent):
    histogram = histogram_of(values)
    exact = np.percentile(np.abs(values).astype(np.float64), percent, method="inverted_cdf")
    width = 2.0**histogram.exponent / BINS
    assert width <= max(2 * histogram.amax, 2.0**-64) / BINS
    assert exact <= histogram.percentile(percent) <= exact + width
    assert histogram.percentile(percent) <= histogram.amax == np.abs(values).max()


@settings(deadline=None)
@given(VALUES, st.floats(0, 100))
def test_a_percentile_grows_with_the_percent_up_to_amax(values, percent):
    histogram = histogram_of(values)
    assert 0 <= histogram.percentile(percent) <= histogram.percentile(100) == histogram.amax


@settings(deadline=None)
@given(VALUES)
def test_every_value_is_counted_once_in_the_bin_that_holds_it(values):
    histogram = histogram_of(values.reshape(1, -1, 1))
    assert histogram.counts.sum() == values.size
    edges = np.arange(BINS + 1) * 2.0**histogram.exponent / BINS
    expected, _ = np.histogram(np.abs(values).astype(np.float64), edges)
    np.testing.assert_array_equal(histogram.counts, expected)


# By hand: 1000 values 0.5, 1.5, ... make bins of 1024 / 4096 = 1/4, in which each stands at its lower edge.
@pytest.mark.parametrize(("percent", "magnitude"), [(50, 499.75), (99, 989.75), (99.9, 998.75), (100, 999.5)])
def test_a_percentile_is_the_upper_edge_of_its_bin(percent, magnitude):
    assert histogram_of(np.arange(1000, dtype=np.float32) + 0.5).percentile(percent) == magnitude


def test_signs_do_not_matter():
    values = np.random.default_rng(0).standard_normal(1000, np.float32)
    assert_same(histogram_of(values), histogram_of(-values))


@pytest.mark.parametrize("constant", [1.0, -1.0, 2.0**-30, 0.1, 3e38])
def test_every_percentile_of_a_constant_is_that_constant(constant):
    histogram = histogram_of(np.full(100, constant, np.float32))
    for percent in (0.1, 50, 99.99, 100):
        assert histogram.percentile(percent) == pytest.approx(abs(constant), rel=2 / BINS)
    assert histogram.percentile(100) == histogram.amax == np.abs(np.float32(constant))


def test_every_percentile_of_zeros_or_nothing_is_zero():
    for batch in (np.zeros(100, np.float32), np.zeros(0, np.float32)):
        histogram = histogram_of(batch)
        assert histogram.amax == histogram.percentile(50) == histogram.percentile(100) == 0
        assert histogram.counts.sum() == batch.size
    assert Histogram().percentile(99.9) == 0


@pytest.mark.parametrize("size", [0, 3])
def test_zeros_alone_do_not_coarsen_the_bins(size):
    zeros, small = np.zeros(size, np.float32), np.array([1e-5, 2e-5, 3e-5], np.float32)
    assert_same(histogram_of(zeros, small), histogram_of(np.concatenate([zeros, small])))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_is_refused_and_counts_nothing(wrong):
    histogram = histogram_of(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        histogram.add(np.array([5, wrong, 1], np.float32))
    assert_same(histogram, histogram_of(np.ones(3, np.float32)))


def test_its_size_does_not_grow_with_the_values_counted():
    histogram = Histogram()
    before = histogram.counts.nbytes
    for step in range(200):
        histogram.add(np.full(1000, 1.5**step * 1e-20, np.float32))
    histogram.merge(histogram_of(np.ones(10, np.float32)))
    assert histogram.counts.nbytes == before == 8 * BINS
    assert histogram.counts.base is None  # nor does it hold on to a larger array
    assert histogram.counts.sum() == 200_010
    assert sys.getsizeof(vars(histogram)) < 1000
