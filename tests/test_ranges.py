import json
from dataclasses import replace

import numpy as np
import pytest

from deploykit.errors import DeployError
from deploykit.files import sha256_of
from deploykit.quantize.histogram import BINS, Histogram
from deploykit.quantize.ranges import Ranges


def ranges_of(**values) -> Ranges:
    histograms = {}
    for name, array in values.items():
        histograms[name] = Histogram()
        histograms[name].add(np.asarray(array, np.float32))
    return Ranges(
        onnx_sha256="a" * 64,
        method="percentile",
        percentile=99.0,
        source="photos/",
        images=3,
        histograms=histograms,
    )


@pytest.fixture
def ranges() -> Ranges:
    # 1, 2, ..., 1000 has 99 percent of its values at or under 990.
    return ranges_of(counting=np.arange(1, 1001), small=[1e-9, -3e-9], zero=np.zeros(4))


def test_what_is_written_is_read_back(ranges, tmp_path):
    path = tmp_path / "new" / "model.ranges.json"
    ranges.save(path)
    loaded = Ranges.load(path)
    assert loaded.sha256 == ranges.sha256
    assert (loaded.method, loaded.percentile, loaded.source, loaded.images) == (
        "percentile",
        99,
        "photos/",
        3,
    )
    for name, histogram in ranges.histograms.items():
        np.testing.assert_array_equal(loaded.histograms[name].counts, histogram.counts)
        assert loaded.amax(name) == ranges.amax(name)


def test_ranges_keep_their_digest_whether_a_percentile_was_given_whole_or_not(ranges, tmp_path):
    path = tmp_path / "r.json"
    replace(ranges, percentile=99).save(path)
    assert Ranges.load(path).sha256 == sha256_of(path)


def test_a_histogram_read_back_goes_on_counting(ranges, tmp_path):
    ranges.save(tmp_path / "r.json")
    loaded = Ranges.load(tmp_path / "r.json").histograms["counting"]
    loaded.add(np.full(9, 5000, np.float32))
    assert loaded.counts.sum() == 1009
    assert loaded.amax == 5000


def test_the_file_states_each_range_for_people_to_read(ranges, tmp_path):
    ranges.save(tmp_path / "r.json")
    tensors = json.loads((tmp_path / "r.json").read_text())["tensors"]
    assert tensors["counting"]["range"] == pytest.approx(990, abs=1024 / BINS)
    assert tensors["counting"]["amax"] == 1000


def test_max_keeps_the_largest_and_percentile_what_most_stay_under(ranges):
    assert replace(ranges, method="max").amax("counting") == 1000
    assert ranges.amax("counting") == pytest.approx(990, abs=1024 / BINS)
    assert replace(ranges, percentile=50.5).amax("counting") == pytest.approx(505, abs=1024 / BINS)
    assert replace(ranges, percentile=100).amax("counting") == 1000


def test_one_outlier_moves_the_maximum_and_not_the_percentile():
    values = np.append(np.linspace(-1, 1, 10_000), 50)
    measured = ranges_of(x=values)
    assert replace(measured, method="max").amax("x") == 50
    # All but 1 percent of the magnitudes, which are even between 0 and 1; bins are 64 / 4096 wide.
    assert measured.amax("x") == pytest.approx(0.99, abs=64 / BINS)


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
def test_a_histogram_takes_finite_numbers_alone(value):
    histogram = Histogram()
    with pytest.raises(ValueError, match="finite"):
        histogram.add(np.array([1, value], np.float32))
    assert histogram.counts.sum() == 0


@pytest.mark.parametrize("value", [1e-38, 1e-20, 1.0, 2.0, 3.4e38])
def test_every_magnitude_of_float32_is_counted(value):
    measured = ranges_of(x=np.full(10, value))
    assert measured.histograms["x"].counts.sum() == 10
    assert measured.amax("x") == np.float32(value)


def test_zeros_cost_no_resolution():
    values = np.linspace(1e-5, 1e-3, 1000)
    assert ranges_of(x=np.append(values, 0)).amax("x") == pytest.approx(9.9e-4, rel=0.01)
    measured = ranges_of(x=np.zeros(1))
    measured.histograms["x"].add(values.astype(np.float32))
    assert measured.amax("x") == pytest.approx(9.9e-4, rel=0.005)


def test_a_tensor_that_was_not_measured_is_named(ranges):
    with pytest.raises(DeployError, match=r"know nothing of conv_head\.silu"):
        ranges.amax("conv_head.silu")


def test_ranges_of_another_model_are_refused(ranges):
    ranges.require_model("a" * 64)
    with pytest.raises(DeployError, match=r"another model \(SHA-256 a{12}, not b{12}\)") as caught:
        ranges.require_model("b" * 64)
    assert "deploykit calibrate" in caught.value.fix


def test_a_file_cut_short_anywhere_is_refused(ranges, tmp_path):
    path = tmp_path / "cut.json"
    ranges.save(path)
    whole = path.read_bytes().rstrip()
    for length in [*range(40), *range(40, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DeployError, match=r"cut\.json is no ranges file, or was damaged"):
            Ranges.load(path)


def tensor(**fields) -> dict[str, object]:
    return {"x": {"amax": 1.0, "exponent": 1, "counts": [1], **fields}}


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 2},
        {"tensors": {"x": {}}},
        {"tensors": tensor(amax="large")},
        {"tensors": tensor(amax=float("nan"))},
        {"tensors": tensor(exponent=1.5)},
        {"tensors": tensor(counts=[1] * (BINS + 1))},
        {"tensors": tensor(counts="many")},
        {"tensors": []},
        {"method": "entropy"},
        {"percentile": "most"},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_a_file_that_makes_no_sense_is_refused(ranges, tmp_path, fields):
    path = tmp_path / "odd.json"
    ranges.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(DeployError, match=r"odd\.json is no ranges file"):
        Ranges.load(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage", b"null", b"[]", b"3", b'"text"', b"{}"])
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "garbage.json").write_bytes(content)
    with pytest.raises(DeployError, match=r"garbage\.json is no ranges file"):
        Ranges.load(tmp_path / "garbage.json")


def test_a_missing_file_is_refused_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(DeployError, match="There is no ranges file") as caught:
        Ranges.load(tmp_path / "none.json")
    assert "deploykit calibrate" in caught.value.fix
