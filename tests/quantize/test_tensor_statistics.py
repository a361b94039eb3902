import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploykit.quantize.calibration.histogram import Histogram
from deploykit.quantize.calibration.tensor_statistics import SAMPLED_VALUES, TensorStatistics, sample_batch

IMAGES = st.integers(1, 6).flatmap(
    lambda count: arrays(np.float32, (count, 5), elements=st.floats(-(2.0**127), 2.0**127, width=32))
)


def statistics_of(*batches: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics()
    for batch in batches:
        statistics.add(sample_batch(batch))
    return statistics


def merged(*parts: TensorStatistics) -> TensorStatistics:
    result = TensorStatistics()
    for part in parts:
        result.merge(part)
    return result


def contents(histogram: Histogram) -> tuple[float, int, tuple[int, ...]]:
    return histogram.amax, histogram.exponent, tuple(histogram.counts.tolist())


def assert_same(first: TensorStatistics, second: TensorStatistics) -> None:
    assert (first.low, first.high) == (second.low, second.high)
    assert contents(first.values) == contents(second.values)
    assert contents(first.peaks) == contents(second.peaks)


@given(IMAGES, IMAGES)
def test_merging_is_commutative_and_the_same_as_having_seen_all_images(first, second):
    a, b = statistics_of(first), statistics_of(second)
    assert_same(merged(a, b), merged(b, a))
    assert_same(merged(a, b), statistics_of(np.concatenate([first, second])))
    assert_same(merged(a, b), statistics_of(first, second))


@given(IMAGES, IMAGES, IMAGES)
def test_merging_is_associative_and_leaves_the_other_alone(first, second, third):
    a, b, c = statistics_of(first), statistics_of(second), statistics_of(third)
    assert_same(merged(merged(a, b), c), merged(a, merged(b, c)))
    assert_same(c, statistics_of(third))


@given(IMAGES, st.randoms())
def test_order_and_batching_of_the_images_make_no_difference(images, random):
    order = list(range(len(images)))
    random.shuffle(order)
    assert_same(statistics_of(*(images[index : index + 1] for index in order)), statistics_of(images))


def test_large_images_can_be_batched_and_merged_in_any_way_too():
    images = np.random.default_rng(0).standard_normal((5, 3, 120, 120)).astype(np.float32)
    whole = statistics_of(images)
    assert_same(whole, statistics_of(images[3:], images[:3]))
    assert_same(whole, merged(statistics_of(images[:1]), statistics_of(images[1:])))


@given(IMAGES)
def test_extremes_and_peaks_are_those_of_the_values(images):
    statistics = statistics_of(images)
    assert (statistics.low, statistics.high) == (images.min(), images.max())
    assert statistics.amax == np.abs(images).max()
    assert contents(statistics.values) == contents(_histogram(images))
    assert contents(statistics.peaks) == contents(_histogram(np.abs(images).max(axis=1)))


def _histogram(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


@pytest.mark.parametrize("share", [0, 0.5, 1, 1.001, 1.5, 1.999, 2, 2.5, 3, 4, 4.999, 49, 50])
def test_large_images_are_sampled_and_small_ones_counted_completely(share):
    size = max(1, int(share * SAMPLED_VALUES))
    statistics = statistics_of(np.ones((3, size), np.float32))
    counted = statistics.values.counts.sum() / 3
    if size <= SAMPLED_VALUES:
        assert counted == size
    else:
        assert SAMPLED_VALUES <= counted <= 3 * SAMPLED_VALUES
    assert statistics.peaks.counts.sum() == 3


@pytest.mark.parametrize("value", [100.0, -100.0])
def test_no_value_is_overlooked_among_extremes_and_peaks(value):
    quiet = np.linspace(-1, 1, 50_001, dtype=np.float32)
    for place in (0, 1, 2, 3, 5, 6, 7, 49_999, 50_000):
        images = np.stack([quiet, quiet])
        images[1, place] = value
        statistics = statistics_of(images)
        assert statistics.amax == 100
        assert statistics.peaks.percentile(50) == pytest.approx(1, rel=2 * 128 / 4096)
        assert statistics.peaks.percentile(100) == 100


# Sides that EfficientNets of 64 to 600 px have, with channels to match.
@pytest.mark.parametrize(
    ("channels", "side"),
    [(32, 32), (96, 56), (32, 112), (240, 28), (40, 150), (144, 75), (48, 190), (64, 300), (32, 120)],
)
def test_every_column_of_a_feature_map_is_sampled_as_often_as_the_others(channels, side):
    shares = []
    for column in (0, 1, side // 2, side - 1):
        maps = np.zeros((1, channels, side, side), np.float32)
        maps[..., column] = 1
        counts = statistics_of(maps).values.counts
        shares.append(1 - counts[0] / counts.sum())
    assert shares == pytest.approx([1 / side] * 4, rel=0.3)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [3, 50_000])
def test_a_non_finite_value_is_refused_anywhere_and_counts_nothing(wrong, size):
    statistics = statistics_of(np.ones((2, size), np.float32))
    for place in (0, 1, size - 1):
        batch = np.ones((2, size), np.float32)
        batch[1, place] = wrong
        with pytest.raises(ValueError, match="not finite"):
            statistics.add(sample_batch(batch))
    assert_same(statistics, statistics_of(np.ones((2, size), np.float32)))


def test_memory_does_not_grow_with_the_images_seen():
    statistics = TensorStatistics()
    for _ in range(50):
        statistics.add(sample_batch(np.ones((4, 100), np.float32)))
    assert statistics.values.counts.nbytes + statistics.peaks.counts.nbytes == 2 * 4096 * 8
    assert statistics.values.counts.base is None


def test_statistics_without_images_are_empty():
    nothing = TensorStatistics()
    assert (nothing.low, nothing.high) == (math.inf, -math.inf)
    assert_same(
        merged(nothing, statistics_of(np.ones((1, 1), np.float32))),
        statistics_of(np.ones((1, 1), np.float32)),
    )
