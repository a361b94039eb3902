import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from refusals import refuses

from deploykit.data.preprocessing import Preprocessing
from deploykit.quantize.calibration.histogram import BINS, Histogram
from deploykit.quantize.calibration.method_choice import ErrorSum, MethodChoice, MethodScore
from deploykit.quantize.calibration.methods import METHOD_NAMES, CalibrationMethod, named_method
from deploykit.quantize.calibration.ranges import Ranges, TensorRange, merge_ranges
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics, sample_batch
from deploykit.util.atomic_files import file_sha256

PERCENTILE = CalibrationMethod(name="percentile", percent=99.0)


def ranges_of(*, source: str = "photos/", **values) -> Ranges:
    """Of one image, tensor by tensor."""
    statistics = {}
    for name, array in values.items():
        statistics[name] = TensorStatistics()
        statistics[name].add(sample_batch(np.asarray(array, np.float32).reshape(1, -1)))
    return Ranges(
        onnx_sha256="a" * 64,
        preprocessing=Preprocessing(side_px=32),
        sources=(source,),
        images=1,
        method=PERCENTILE,
        statistics=statistics,
    )


def by(ranges: Ranges, name: str, percent: float | None = None) -> Ranges:
    return replace(ranges, method=named_method(name, percent))


@pytest.fixture
def ranges() -> Ranges:
    # 1, 2, ..., 1000 has 99 percent of its values at or under 990.
    return ranges_of(counting=np.arange(1, 1001), small=[1e-9, -3e-9], zero=np.zeros(4))


CHOICE = MethodChoice(
    scores=(
        MethodScore(method=CalibrationMethod(name="max"), error=ErrorSum(total=0.5, images=4)),
        MethodScore(
            method=CalibrationMethod(name="peak-percentile", percent=97.0),
            error=ErrorSum(total=0.25, images=4),
        ),
    ),
    noise={"counting": ErrorSum(total=0.125, images=2)},
)


def test_what_is_written_is_read_back(ranges, tmp_path):
    path = tmp_path / "new" / "model.ranges.json"
    ranges = replace(ranges, choice=CHOICE, sources=("photos/", "more/"), images=3)
    ranges.save(path)
    loaded = Ranges.load(path)
    assert loaded.sha256 == ranges.sha256 == file_sha256(path)
    assert (loaded.method, loaded.sources, loaded.images) == (PERCENTILE, ("photos/", "more/"), 3)
    assert (loaded.onnx_sha256, loaded.preprocessing) == ("a" * 64, Preprocessing(side_px=32))
    assert loaded.choice == CHOICE
    assert loaded.statistics.keys() == ranges.statistics.keys()
    for name, statistics in ranges.statistics.items():
        read = loaded.statistics[name]
        assert (read.low, read.high) == (statistics.low, statistics.high)
        np.testing.assert_array_equal(read.values.counts, statistics.values.counts)
        np.testing.assert_array_equal(read.peaks.counts, statistics.peaks.counts)
        for method in METHOD_NAMES:
            assert by(loaded, method).tensor_range(name) == by(ranges, method).tensor_range(name)


@pytest.mark.parametrize("percent", [99, 99.0, 99.999])
def test_an_integer_percentile_has_the_same_digest_as_a_float(ranges, tmp_path, percent):
    path = tmp_path / "r.json"
    written = by(ranges, "percentile", percent)
    written.save(path)
    assert Ranges.load(path).sha256 == file_sha256(path) == written.sha256


def test_statistics_read_from_a_file_can_count_on(ranges, tmp_path):
    ranges.save(tmp_path / "r.json")
    loaded = Ranges.load(tmp_path / "r.json").statistics["counting"]
    loaded.add(sample_batch(np.full((3, 3), 5000, np.float32)))
    assert loaded.values.counts.sum() == 1009
    assert loaded.peaks.counts.sum() == 4
    assert loaded.amax == 5000


def test_the_file_states_each_range_for_people_to_read(ranges, tmp_path):
    ranges.save(tmp_path / "r.json")
    file = json.loads((tmp_path / "r.json").read_text())
    assert file["ranges"]["counting"] == [1, pytest.approx(990, abs=1024 / BINS)]
    assert file["ranges"]["zero"] == [0, 0]
    assert (file["statistics"]["counting"]["low"], file["statistics"]["counting"]["high"]) == (1, 1000)


def test_the_file_of_many_tensors_stays_small(tmp_path):
    generator = np.random.default_rng(0)
    names = [f"blocks.{number}" for number in range(80)]
    ranges_of(**{name: generator.standard_normal(8192) for name in names}).save(tmp_path / "r.json")
    assert (tmp_path / "r.json").stat().st_size < 3_000_000


def test_max_and_percentile_read_the_expected_ranges(ranges):
    assert by(ranges, "max").tensor_range("counting").amax == 1000
    assert ranges.tensor_range("counting").amax == pytest.approx(990, abs=1024 / BINS)
    half = by(ranges, "percentile", 50.5)
    assert half.tensor_range("counting").amax == pytest.approx(505, abs=1024 / BINS)
    assert by(ranges, "percentile", 100).tensor_range("counting").amax == 1000


def test_one_outlier_moves_the_maximum_and_not_the_percentile():
    values = np.append(np.linspace(-1, 1, 4000), 50)
    measured = ranges_of(x=values)
    assert by(measured, "max").tensor_range("x") == TensorRange(low=-1, high=50)
    # All but 1 percent of the magnitudes, which are even between 0 and 1; bins are 64 / 4096 wide.
    assert measured.tensor_range("x").amax == pytest.approx(0.99, abs=64 / BINS)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([-3, 1], -3, 1),
        ([0, 5], 0, 5),
        ([2, 5], 2, 5),
        ([-5, -2], -5, -2),
        ([-0.28, 7], -0.28, 7),
        ([0], 0, 0),
    ],
)
def test_a_range_is_no_wider_than_the_values_seen(values, low, high):
    interval = by(ranges_of(x=values), "max").tensor_range("x")
    assert (interval.low, interval.high) == (np.float32(low), np.float32(high))
    assert interval.amax == max(abs(np.float32(low)), abs(np.float32(high)))


def test_a_range_is_clipped_only_on_the_side_that_needs_it():
    values = np.append(np.linspace(-0.25, 1, 4000), 50)
    interval = ranges_of(x=values).tensor_range("x")
    assert interval.low == -0.25
    assert 0.9 < interval.high < 1.1


@pytest.mark.parametrize("method", METHOD_NAMES)
@given(values=arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_ranges_are_ordered_and_within_the_values_seen(method, values):
    interval = by(ranges_of(x=values), method).tensor_range("x")
    assert values.min() <= interval.low <= interval.high <= values.max()


def test_clipped_fractions_cover_tensors_reduced_to_under_half():
    outlier = np.append(np.linspace(-1, 1, 4000), 50)
    measured = ranges_of(much=outlier, little=np.arange(1, 1001), nothing=np.zeros(3))
    assert measured.clipped_fractions() == {"much": pytest.approx(0.99 / 50, abs=64 / BINS / 50)}
    assert by(measured, "max").clipped_fractions() == {}


def test_the_order_of_the_values_makes_no_difference():
    values = np.random.default_rng(0).lognormal(0, 4, 1000).astype(np.float32)
    whole, parts, merged = Histogram(), Histogram(), Histogram()
    whole.add(values)
    for part in np.array_split(np.sort(values)[::-1], 7):
        parts.add(part)
        single = Histogram()
        single.add(part)
        merged.merge(single)
    for histogram in (parts, merged):
        assert (histogram.amax, histogram.exponent) == (whole.amax, whole.exponent)
        np.testing.assert_array_equal(histogram.counts, whole.counts)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_histogram_accepts_only_finite_numbers(value):
    histogram = Histogram()
    with pytest.raises(ValueError, match="finite"):
        histogram.add(np.array([1, value], np.float32))
    assert histogram.counts.sum() == 0


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1e-20, 1.0, 2.0, 3.4e38])
def test_every_magnitude_of_float32_is_counted_written_and_read_back(tmp_path, value):
    measured = by(ranges_of(x=np.full(10, value)), "max")
    measured.save(tmp_path / "r.json")
    for each in (measured, Ranges.load(tmp_path / "r.json")):
        assert each.statistics["x"].values.counts.sum() == 10
        assert each.tensor_range("x").amax == np.float32(value)


def test_zeros_cost_no_resolution():
    values = np.linspace(1e-5, 1e-3, 1000)
    assert ranges_of(x=np.append(values, 0)).tensor_range("x").amax == pytest.approx(9.9e-4, rel=0.01)
    measured = ranges_of(x=np.zeros(1))
    measured.statistics["x"].add(sample_batch(values.astype(np.float32).reshape(1, -1)))
    assert measured.tensor_range("x").amax == pytest.approx(9.9e-4, rel=0.005)


def test_a_tensor_that_was_not_measured_is_named(ranges):
    with refuses("ranges-incomplete"):
        ranges.tensor_range("conv_head.silu")


def test_ranges_of_another_model_are_refused(ranges):
    ranges.require_model("a" * 64)
    with refuses("ranges-wrong-model") as caught:
        ranges.require_model("b" * 64)
    assert "deploykit calibrate" in caught.value.fix


IMAGES = st.lists(
    arrays(np.float32, 6, elements=st.floats(-(2.0**100), 2.0**100, width=32)), min_size=3, max_size=6
)


def measured_on(images: list[np.ndarray], source: str) -> Ranges:
    statistics = TensorStatistics()
    for image in images:
        statistics.add(sample_batch(image.reshape(1, -1)))
    return replace(ranges_of(x=[0], source=source), statistics={"x": statistics}, images=len(images))


@given(IMAGES)
@example([np.zeros(6, np.float32), np.zeros(6, np.float32), np.full(6, -0.0, np.float32)])
def test_merging_in_any_order_equals_one_calibration_on_all_images(images):
    a, b, c = measured_on(images[:1], "a"), measured_on(images[1:2], "b"), measured_on(images[2:], "c")
    together = replace(measured_on(images, "a"), sources=("a", "b", "c"))
    for merged in (
        merge_ranges(a, b, c),
        merge_ranges(c, a, b),
        merge_ranges(merge_ranges(a, b), c),
        merge_ranges(a, merge_ranges(b, c)),
    ):
        assert merged.to_json() == together.to_json()


def test_merging_does_not_modify_its_inputs(ranges):
    before = ranges.to_json()
    merged = merge_ranges(ranges, ranges)
    merged.statistics["counting"].add(sample_batch(np.full((1, 1), 1e6, np.float32)))
    assert ranges.to_json() == before


def test_merging_one_file_returns_it(ranges):
    assert merge_ranges(ranges).to_json() == ranges.to_json()


def chosen(*totals: float, images: int = 4, noise: float = 0.0) -> Ranges:
    """Ranges whose method, max or mse, was chosen by these errors."""
    methods = (CalibrationMethod(name="max"), CalibrationMethod(name="mse"))
    scores = tuple(
        MethodScore(method=method, error=ErrorSum(total=total, images=images))
        for method, total in zip(methods, totals, strict=True)
    )
    choice = MethodChoice(scores=scores, noise={"x": ErrorSum(total=noise, images=2)})
    return replace(ranges_of(x=[1]), choice=choice, method=choice.best)


def test_a_chosen_method_is_chosen_again_from_all_errors():
    first, second = chosen(1.0, 2.0, noise=0.5), chosen(4.0, 2.5, noise=0.25)
    assert (first.method.name, second.method.name) == ("max", "mse")
    for merged in (merge_ranges(first, second), merge_ranges(second, first)):
        assert merged.method.name == "mse"  # 4.5 against 5.0
        assert [score.error.total for score in merged.choice.scores] == [5.0, 4.5]
        assert [score.error.images for score in merged.choice.scores] == [8, 8]
        assert merged.choice.noise == {"x": ErrorSum(total=0.75, images=4)}


def test_the_larger_calibration_counts_for_more():
    merged = merge_ranges(chosen(1.0, 2.0, images=4), chosen(30.0, 10.0, images=100))
    assert merged.method.name == "mse"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"onnx_sha256": "b" * 64}, "ranges-wrong-model"),
        ({"preprocessing": Preprocessing(side_px=32, mean=(0, 0, 0))}, "ranges-preprocessing-mismatch"),
        ({"statistics": {"y": TensorStatistics()}}, "ranges-not-mergeable"),
        ({"method": CalibrationMethod(name="max")}, "ranges-not-mergeable"),
        ({"method": CalibrationMethod(name="percentile", percent=98.0)}, "ranges-not-mergeable"),
        ({"choice": CHOICE}, "ranges-not-mergeable"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_incompatible_ranges_are_not_merged(change, code):
    first = ranges_of(x=[1, 2])
    with refuses(code) as caught:
        merge_ranges(first, replace(first, **change))
    assert caught.value.fix


def test_choices_among_different_methods_are_not_merged():
    others = tuple(replace(score, method=CalibrationMethod(name="entropy")) for score in CHOICE.scores[:1])
    first = replace(ranges_of(x=[1]), choice=CHOICE)
    with refuses("ranges-not-mergeable"):
        merge_ranges(first, replace(first, choice=replace(CHOICE, scores=others)))


def test_a_truncated_file_is_refused(ranges, tmp_path):
    path = tmp_path / "cut.json"
    replace(ranges, choice=CHOICE).save(path)
    whole = path.read_bytes().rstrip()
    for length in [*range(40), *range(40, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with refuses("ranges-damaged"):
            Ranges.load(path)


def histogram(**fields) -> dict[str, object]:
    return {"amax": 1.0, "exponent": 1, "bins": [0, 2], "counts": [1, 7], **fields}


def tensor(**fields) -> dict[str, object]:
    sound = {"low": -1.0, "high": 1.0, "values": histogram(), "peaks": histogram()}
    return {"statistics": {"x": {**sound, **fields}}}


def test_the_undamaged_file_is_accepted(ranges, tmp_path):
    path = tmp_path / "sound.json"
    ranges.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **tensor()}))
    assert Ranges.load(path).statistics["x"].values.counts.sum() == 8


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 1},
        {"format": 3},
        {"statistics": {"x": {}}},
        {"statistics": []},
        tensor(low=2.0),
        tensor(high="large"),
        tensor(high=1e300),
        tensor(values=histogram(amax="large")),
        tensor(values=histogram(amax=float("nan"))),
        tensor(values=histogram(amax=-1.0)),
        tensor(values=histogram(exponent=1.5)),
        tensor(values=histogram(exponent=10**6)),
        tensor(values=histogram(counts=[1])),
        tensor(values=histogram(counts=[1, -1])),
        tensor(values=histogram(counts="many")),
        tensor(peaks=histogram(bins=[2, 2])),
        tensor(peaks=histogram(bins=[0, BINS])),
        tensor(peaks=histogram(bins=[-1, 0])),
        tensor(peaks=histogram(bins=list(range(BINS + 1)), counts=[1] * (BINS + 1))),
        {"images": 0},
        {"method": "entropy"},
        {"method": {"name": "median", "percent": None}},
        {"method": {"name": "percentile", "percent": 50}},
        {"method": {"name": "percentile", "percent": "most"}},
        {"choice": {"scores": [], "noise": {}}},
        {"preprocessing": {"side_px": 0}},
    ],
    ids=lambda fields: str(fields)[:70],
)
def test_a_file_with_invalid_content_is_refused(ranges, tmp_path, fields):
    path = tmp_path / "odd.json"
    ranges.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with refuses("ranges-damaged") as caught:
        Ranges.load(path)
    assert "deploykit calibrate" in caught.value.fix


@pytest.mark.parametrize(
    "method", [{"name": "percentile", "percent": None}, {"name": "max", "percent": 99.0}], ids=str
)
def test_a_method_with_a_missing_or_superfluous_percentile_is_refused(ranges, tmp_path, method):
    path = tmp_path / "odd.json"
    ranges.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "method": method}))
    with refuses("ranges-damaged"):
        Ranges.load(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage", b"null", b"[]", b"3", b'"text"', b"{}"])
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "garbage.json").write_bytes(content)
    with refuses("ranges-damaged"):
        Ranges.load(tmp_path / "garbage.json")


def test_a_missing_file_is_refused_with_the_command_that_creates_it(tmp_path):
    with refuses("ranges-not-found") as caught:
        Ranges.load(tmp_path / "none.json")
    assert "deploykit calibrate" in caught.value.fix
