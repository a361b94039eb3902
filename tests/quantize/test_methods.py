import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from refusals import refuses

from deploykit.quantize.calibration.histogram import BINS, Histogram
from deploykit.quantize.calibration.methods import (
    DEFAULT_PERCENT,
    METHOD_NAMES,
    CalibrationMethod,
    named_method,
)
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics, sample_batch

EVERY = [named_method(name) for name in METHOD_NAMES]
PERCENTS = (62.5, 75.0, 96.875, 99.609375, 100.0)  # exact in binary, so that no rank is a matter of rounding

FINITE = arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**127), 2.0**127, width=32))
ORDINARY = arrays(np.float32, (st.integers(1, 40) | st.just(200)).map(lambda n: (n, 7)), elements=st.floats(
    -1000, 1000, width=32
))  # fmt: skip


def statistics_of(*images: np.ndarray) -> TensorStatistics:
    """Of one image each."""
    statistics = TensorStatistics()
    for image in images:
        statistics.add(sample_batch(np.asarray(image, np.float32).reshape(1, -1)))
    return statistics


@pytest.mark.parametrize("method", EVERY, ids=str)
@given(values=FINITE)
def test_no_method_exceeds_the_largest_value_and_only_zeros_give_zero(method, values):
    amax = method.amax(statistics_of(values))
    assert 0 <= amax <= np.abs(values).max()
    assert (amax == 0) == (not values.any())


@pytest.mark.parametrize("method", EVERY, ids=str)
@pytest.mark.parametrize("count", [1, 2, 1000])
@pytest.mark.parametrize("constant", [1.0, -1.0, 0.3, 1e-40, -1e-30, 2.0**-64, 1e-8, 3e4, 1e38, -3.4e38])
def test_every_method_returns_a_constant_for_that_constant(method, count, constant):
    amax = method.amax(statistics_of(np.full(count, constant)))
    smallest = 2.0**-64 / BINS  # finer than a bin of the narrowest range nothing is told apart
    assert amax == pytest.approx(abs(np.float32(constant)), rel=2 / BINS, abs=smallest)
    assert 0 < amax < math.inf


@pytest.mark.parametrize("method", EVERY, ids=str)
def test_every_method_returns_zero_for_zeros_or_nothing(method):
    assert method.amax(statistics_of(np.zeros(100), np.zeros(1))) == 0
    assert method.amax(TensorStatistics(low=0.0, high=0.0)) == 0


@pytest.mark.parametrize("method", EVERY, ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_a_wide_range_of_magnitudes_gives_a_positive_and_finite_one(method, scale):
    values = np.random.default_rng(0).lognormal(0, 3, 5000) * scale
    amax = method.amax(statistics_of(values))
    assert 0 < amax <= np.float32(values.max())


# A power of two changes exponents alone, and so the bins keep their counts.
@pytest.mark.parametrize("method", EVERY, ids=str)
@pytest.mark.parametrize("factor", [2.0**-20, 0.5, 2.0, 2.0**60])
def test_scaling_the_values_scales_the_range(method, factor):
    values = np.random.default_rng(1).standard_normal(3000).astype(np.float32)
    once, scaled = method.amax(statistics_of(values)), method.amax(statistics_of(values * np.float32(factor)))
    assert scaled == pytest.approx(once * factor, rel=1e-6)


@pytest.mark.parametrize("method", EVERY, ids=str)
def test_signs_do_not_matter(method):
    values = np.random.default_rng(2).standard_normal(3000).astype(np.float32)
    assert method.amax(statistics_of(values)) == method.amax(statistics_of(-values))


@given(images=ORDINARY)
def test_max_is_the_largest_magnitude(images):
    assert CalibrationMethod(name="max").amax(statistics_of(*images)) == np.abs(images).max()


@given(images=ORDINARY, percent=st.sampled_from(PERCENTS))
def test_a_percentile_is_numpys_of_the_raw_magnitudes_to_a_bins_width(images, percent):
    statistics = statistics_of(*images)
    exact = np.percentile(np.abs(images).astype(np.float64), percent, method="inverted_cdf")
    amax = CalibrationMethod(name="percentile", percent=percent).amax(statistics)
    assert exact <= amax <= min(exact + _bin_width(statistics.values), np.abs(images).max())


@given(images=ORDINARY, percent=st.sampled_from(PERCENTS))
def test_a_peak_percentile_is_numpys_of_the_images_largest_magnitudes(images, percent):
    statistics = statistics_of(*images)
    peaks = np.abs(images).max(axis=1).astype(np.float64)
    exact = np.percentile(peaks, percent, method="inverted_cdf")
    amax = CalibrationMethod(name="peak-percentile", percent=percent).amax(statistics)
    assert exact <= amax <= min(exact + _bin_width(statistics.peaks), peaks.max())


def _bin_width(histogram: Histogram) -> float:
    return 2.0**histogram.exponent / BINS


def test_one_image_in_fifty_moves_a_percentile_of_values_and_not_one_of_peaks():
    generator = np.random.default_rng(3)
    images = generator.uniform(-1, 1, (50, 1000))
    images[7] *= 50
    statistics = statistics_of(*images)
    assert CalibrationMethod(name="max").amax(statistics) == pytest.approx(50, rel=0.01)
    assert CalibrationMethod(name="percentile", percent=99.99).amax(statistics) > 40
    assert CalibrationMethod(name="peak-percentile", percent=97).amax(statistics) == pytest.approx(
        1, abs=64 / BINS
    )


GENERATOR = np.random.default_rng(4)
NORMAL = GENERATOR.standard_normal(20_000)
DISTRIBUTIONS = {
    "normal": NORMAL,
    "Laplace's": GENERATOR.laplace(size=20_000),
    "uniform": GENERATOR.uniform(-1, 1, 20_000),
    "heavy-tailed": GENERATOR.standard_t(3, 20_000),
    "lognormal": GENERATOR.lognormal(0, 1, 20_000),
    "behind ReLU": np.maximum(NORMAL, 0),
    "behind Swish": 3 * NORMAL / (1 + np.exp(-3 * NORMAL)),
    "with outliers": np.append(NORMAL, [40.0, -60.0]),
    "few levels": np.rint(4 * NORMAL),
    "two clusters": np.concatenate([NORMAL, 20 + NORMAL]),
    "fewer bins than levels": np.append(GENERATOR.uniform(0, 0.01, 1000), 1.0),
}
distributions = pytest.mark.parametrize("values", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)


# Not of a few levels: the formula takes what rounding loses as evenly distributed, as behind a layer it is.
@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if name != "few levels"])
def test_mse_is_as_good_as_the_best_range_found_by_quantizing_the_values_themselves(name):
    values = DISTRIBUTIONS[name].astype(np.float32)[:8000]  # all of which are counted
    chosen = CalibrationMethod(name="mse").amax(statistics_of(*np.array_split(values, 4)))
    largest = np.abs(values).max()
    best = min(_error_of_quantizing(values, largest * part) for part in np.linspace(0.02, 1, 400))
    assert _error_of_quantizing(values, chosen) <= 1.1 * best


def _error_of_quantizing(values: np.ndarray, amax: float) -> float:
    step = amax / 127
    quantized = np.clip(np.rint(values / step), -127, 127) * step
    return float(np.square(values - quantized, dtype=np.float64).mean())


@distributions
def test_mse_is_the_least_that_its_formula_gives_at_any_candidate(values):
    histogram, chosen = _clipped(values, "mse")
    least = min(_expected_error(histogram, end) for end in _candidates(histogram))
    assert _expected_error(histogram, chosen) <= least * (1 + 1e-9)


def _expected_error(histogram: Histogram, end: int) -> float:
    """Each bin's values at its centre: clipped ones lose the rest, the others a step's variance."""
    width = _bin_width(histogram)
    limit, error = end * width, 0.0
    for index, count in enumerate(histogram.counts.tolist()):
        centre = (index + 0.5) * width
        error += count * ((centre - limit) ** 2 if centre > limit else (limit / 127) ** 2 / 12)
    return error


@distributions
def test_entropy_is_the_least_divergence_at_any_candidate(values):
    histogram, chosen = _clipped(values, "entropy")
    least = min(_divergence(histogram.counts.tolist(), end) for end in _candidates(histogram))
    assert _divergence(histogram.counts.tolist(), chosen) <= least + 1e-9


def _clipped(values: np.ndarray, name: str) -> tuple[Histogram, int]:
    """The values' histogram, and the end of the bins that the method keeps."""
    statistics = statistics_of(*np.array_split(values[-4000:], 4))
    amax = CalibrationMethod(name=name).amax(statistics)
    last = _candidates(statistics.values)[-1]
    return statistics.values, last if amax == statistics.amax else round(amax / _bin_width(statistics.values))


def _candidates(histogram: Histogram) -> list[int]:
    """256 ends of bins, evenly from the 128th, which INT8 tells apart, to the last one in use."""
    last = max(index for index, count in enumerate(histogram.counts) if count) + 1
    first = min(128, last)
    count = min(256, last - first + 1)
    return [first + (last - first) * index // max(count - 1, 1) for index in range(count)]


def _divergence(counts: list[int], end: int) -> float:
    """Migacz's, bin by bin: all that is clipped goes to the last bin; each level's values spread evenly
    over those of its bins that were in use.
    """
    clipped = [float(count) for count in counts[:end]]
    clipped[-1] += sum(counts[end:])
    levels: dict[int, list[int]] = {}
    for index in range(end):
        levels.setdefault(index * 128 // end, []).append(index)
    spread = [0.0] * end
    for bins in levels.values():
        used = [index for index in bins if counts[index]]
        for index in used:
            spread[index] = sum(counts[each] for each in used) / len(used)
    total, kept = sum(clipped), max(sum(spread), 1)
    return sum(
        count / total * math.log(count / total / max(spread[index] / kept, 1e-12))
        for index, count in enumerate(clipped)
        if count
    )


def test_entropy_clips_outliers_that_max_keeps():
    statistics = statistics_of(*np.array_split(DISTRIBUTIONS["with outliers"], 10))
    assert CalibrationMethod(name="max").amax(statistics) == 60
    assert CalibrationMethod(name="entropy").amax(statistics) < 10


# By hand: (12 - c)^2 + N (c / 127)^2 / 12 is least at c = 12 / (1 + N / (12 * 127^2)), 7.913 of 100,000.
def test_mse_clips_one_outlier_by_as_much_as_calculus_says():
    values = np.append(np.random.default_rng(5).standard_normal(99_999), 12.0)
    amax = CalibrationMethod(name="mse").amax(statistics_of(*np.array_split(values, 50)))
    assert amax == pytest.approx(7.913, rel=0.01)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_named_method_has_its_default_percentile(name):
    assert named_method(name) == CalibrationMethod(name=name, percent=DEFAULT_PERCENT.get(name))


def test_methods_are_printed_by_name():
    assert [str(method) for method in EVERY] == [
        "max",
        "percentile 99.999",
        "peak-percentile 97",
        "entropy",
        "mse",
    ]
    assert str(named_method("percentile", 99.5)) == "percentile 99.5"


@pytest.mark.parametrize("percent", [0, 50, -3, 100.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["percentile", "peak-percentile"])
def test_an_invalid_percentile_is_refused(name, percent):
    with refuses("invalid-percentile") as caught:
        named_method(name, percent)
    assert f"{percent:g}" in caught.value.problem
    assert "--percentile 99.99" in caught.value.fix


@pytest.mark.parametrize("name", ["max", "entropy", "mse"])
def test_a_percentile_is_refused_for_methods_without_one(name):
    with refuses("option-not-applicable") as caught:
        named_method(name, 99.9)
    assert "--percentile" in caught.value.fix


@pytest.mark.parametrize("percent", [None, 99.9])
def test_an_unknown_method_is_refused_with_the_known_ones(percent):
    with refuses("unknown-calibration-method") as caught:
        named_method("minmax", percent)
    assert all(name in caught.value.fix for name in METHOD_NAMES)
