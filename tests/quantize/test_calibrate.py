import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from folders import files_in
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from refusals import refuses
from small_models import PREPROCESSING, archive, colour_blocks, two_convolutions

from deploykit.data.images import Images, open_images
from deploykit.data.preprocessing import Overrides, Preprocessing
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.quantize.calibrate import CalibrationSettings, calibrate
from deploykit.quantize.calibration.methods import METHOD_NAMES, named_method
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration_files import calibrate_to_file, parse_method
from deploykit.quantize.placement import POLICIES, place_int8
from deploykit.util.atomic_files import file_sha256


def by(name: str, percent: float | None = None, **others) -> CalibrationSettings:
    return CalibrationSettings(method=named_method(name, percent), **others)


def generated(side_px: int = 32, *, limit: int = 3) -> Images:
    return open_images("generated", Preprocessing(side_px=side_px), limit=limit)


@pytest.fixture(scope="module")
def calibrated(shared, trained) -> Ranges:
    images = open_images(shared / "cifar10_calib.npz", trained.info.preprocessing, limit=64)
    return calibrate(trained.path, images, by("percentile"))


def test_every_activation_that_a_policy_may_put_in_int8_is_measured(trained, calibrated):
    model = read_model(trained.path)
    for policy in POLICIES:
        assert set(place_int8(model, policy).tensors) <= set(calibrated.statistics)
    assert set(place_int8(model, "all-conv", include=["*"]).tensors) <= set(calibrated.statistics)


def test_ranges_of_another_model_with_the_same_name_are_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = archive(tmp_path / "i.npz", 3, side_px=8)
    models = [
        colour_blocks(tmp_path / name / "model.onnx", random=random)
        for name, random in (("first", False), ("second", True))
    ]
    paths = [calibrate_to_file(str(data), onnx=str(model), method="max")[0] for model in models]
    assert len(set(paths)) == 2
    assert [Ranges.load(path).onnx_sha256 for path in paths] == [file_sha256(model) for model in models]
    again = [calibrate_to_file(data, onnx=model, method="max")[0] for model in models]
    assert again == paths  # each replaces its own


def test_small_activations_are_counted_value_by_value(calibrated):
    # conv_head reads 320 channels of 2 x 2 pixels, and the classifier 1280 numbers, of 64 images.
    assert calibrated.statistics["classifier.flatten"].values.counts.sum() == 64 * 1280
    assert calibrated.statistics["blocks.6.0.conv_pwl"].values.counts.sum() == 64 * 320 * 2 * 2
    assert all(each.peaks.counts.sum() == 64 for each in calibrated.statistics.values())


def test_swish_ranges_reach_no_lower_than_the_minimum_of_swish(calibrated):
    # x / (1 + exp(-x)) is least at x = -1.278: -0.2785.
    lows = [each.low for name, each in calibrated.statistics.items() if name.endswith("silu")]
    assert len(lows) > 10
    assert all(-0.27847 <= low < 0 for low in lows)


def test_ranges_say_what_they_were_measured_on(shared, trained, calibrated):
    assert calibrated.images == 64
    assert calibrated.sources == (str(shared / "cifar10_calib.npz"),)
    assert str(calibrated.method) == "percentile 99.999"
    assert calibrated.preprocessing == trained.info.preprocessing
    assert calibrated.choice is None


def test_calibrating_twice_gives_the_same(tmp_path):
    model, images = two_convolutions(tmp_path / "small.onnx"), generated(limit=19)
    for settings in (by("percentile"), CalibrationSettings()):
        first, second = (calibrate(model, images, settings) for _ in range(2))
        assert first.sha256 == second.sha256
        assert first.images == 19 - (0 if settings.method else 4)  # a quarter is held out by auto


def test_the_maximum_is_the_largest_magnitude_of_the_activations(tmp_path):
    model = two_convolutions(tmp_path / "small.onnx")
    images = generated()
    ranges = calibrate(model, images, by("max"))
    (batch,) = images.batches(8)
    summed = np.maximum(batch.inputs.sum(axis=1), 0).max()  # the first weight is all ones
    assert ranges.tensor_range("image").amax == pytest.approx(float(np.abs(batch.inputs).max()))
    assert ranges.tensor_range("r").amax == pytest.approx(float(summed), rel=1e-5)
    assert ranges.tensor_range("r").low == 0


def test_a_lower_percentile_gives_a_smaller_range(tmp_path):
    model = two_convolutions(tmp_path / "small.onnx")
    wide, narrow = (calibrate(model, generated(), by("percentile", percent)) for percent in (100, 60))
    assert narrow.tensor_range("image").amax < 0.9 * wide.tensor_range("image").amax


def test_statistics_do_not_depend_on_the_method(tmp_path):
    model = two_convolutions(tmp_path / "small.onnx")
    files = [json.loads(calibrate(model, generated(), by(name)).to_json()) for name in METHOD_NAMES]
    assert all(file["statistics"] == files[0]["statistics"] for file in files)
    assert len({json.dumps(file["ranges"]) for file in files}) > 2


def test_progress_counts_images_and_then_the_steps_of_choosing_to_the_last(tmp_path):
    seen = []
    model = two_convolutions(tmp_path / "small.onnx")
    settings = CalibrationSettings(progress=lambda *each: seen.append(each))
    calibrate(model, generated(limit=100), settings)
    assert [stage for stage, _ in itertools.groupby(seen, key=lambda each: each[0])] == [
        "calibrating",
        "choosing ranges",
    ]
    for stage in ("calibrating", "choosing ranges"):
        done, totals = zip(*(each[1:] for each in seen if each[0] == stage), strict=True)
        assert list(done) == sorted(set(done))
        assert set(totals) == {done[-1]}
    assert totals[0] == len(done)


def test_too_few_images_to_hold_any_out_are_noted(tmp_path):
    notes = []
    calibrate(
        two_convolutions(tmp_path / "small.onnx"), generated(limit=5), CalibrationSettings(note=notes.append)
    )
    assert any("too few to hold any out" in note for note in notes)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path, weight):
    model = two_convolutions(tmp_path / "broken.onnx", weight=weight)
    with refuses("model-values-invalid"):
        calibrate(model, generated(), CalibrationSettings())


@pytest.mark.parametrize(("weight", "between"), [(3e38, "Relu"), (1.0, "Log")], ids=["Inf", "NaN"])
def test_activations_that_are_not_finite_are_named(tmp_path, weight, between):
    model = two_convolutions(tmp_path / "broken.onnx", weight=weight, between=between)
    for settings in (by("max"), CalibrationSettings()):
        with refuses("activations-not-finite"):
            calibrate(model, generated(), settings)


@pytest.mark.parametrize("method", [*METHOD_NAMES, "auto"])
def test_a_dead_layer_whose_outputs_are_all_zero_is_calibrated(tmp_path, method):
    model = two_convolutions(tmp_path / "dead.onnx", weight=0.0)
    ranges = calibrate(model, generated(limit=9), CalibrationSettings(method=parse_method(method, None)))
    interval = ranges.tensor_range("r")
    assert (interval.low, interval.high) == (0, 0)


def one_layer(path: Path, *, kind: str | None) -> Path:
    weights = {} if kind is None else {"w": np.ones((2, 3, 1, 1), np.float32)}
    node = helper.make_node(kind or "Relu", ["image", *weights], ["y"])
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", 32, 32])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    path.write_bytes(to_bytes(helper.make_model(graph, opset_imports=opset, ir_version=10)))
    return path


def test_a_model_with_nothing_to_quantize_is_refused(tmp_path):
    with refuses("nothing-to-quantize") as caught:
        calibrate(one_layer(tmp_path / "none.onnx", kind=None), generated(), CalibrationSettings())
    assert "FP16" in caught.value.fix


def test_a_model_of_one_layer_measures_only_its_input(tmp_path):
    ranges = calibrate(one_layer(tmp_path / "one.onnx", kind="Conv"), generated(), by("max"))
    assert ranges.statistics.keys() == {"image"}


def test_a_model_of_fixed_batch_is_refused(tmp_path):
    with refuses("model-input-unsupported"):
        calibrate(two_convolutions(tmp_path / "fixed.onnx", batch=1), generated(), CalibrationSettings())


@pytest.mark.parametrize(
    ("count", "measured", "compared"), [(1, 1, 1), (7, 7, 7), (8, 6, 2), (20, 15, 5), (300, 236, 64)]
)
def test_methods_are_compared_on_held_out_images_if_there_are_enough(tmp_path, count, measured, compared):
    model = colour_blocks(tmp_path / "model.onnx")
    images = open_images(archive(tmp_path / "i.npz", count, side_px=8), Preprocessing(side_px=8), limit=count)
    ranges = calibrate(model, images, CalibrationSettings())
    assert ranges.images == measured
    assert {score.error.images for score in ranges.choice.scores} == {compared}
    peaks = ranges.statistics["input"].peaks
    assert peaks.counts.sum() == measured


def test_held_out_images_do_not_enter_the_statistics(tmp_path):
    model = colour_blocks(tmp_path / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 100, (8, 8, 8, 3)).astype(np.uint8)
    held_out = []
    for index in range(8):
        changed = pixels.copy()
        changed[index] = 255
        np.savez(tmp_path / "i.npz", images=changed)
        images = open_images(tmp_path / "i.npz", PREPROCESSING, limit=8)
        if calibrate(model, images, CalibrationSettings()).statistics["input"].high < 1:
            held_out.append(index)
    assert held_out == [0, 4]  # a quarter, spread evenly


@pytest.mark.parametrize(("asked", "there"), [(5, 3), (None, 3)])
def test_fewer_images_than_requested_are_noted(tmp_path, asked, there):
    notes: list[str] = []
    images = open_images(archive(tmp_path / "i.npz", there), Preprocessing(side_px=32), limit=asked)
    calibrate(two_convolutions(tmp_path / "m.onnx"), images, by("max", note=notes.append))
    (note,) = notes
    assert f"all {there} images" in note


@pytest.mark.parametrize("limit", [3, 4])
def test_enough_images_need_no_note(tmp_path, limit):
    notes: list[str] = []
    images = open_images(archive(tmp_path / "i.npz", 4), Preprocessing(side_px=32), limit=limit)
    calibrate(two_convolutions(tmp_path / "m.onnx"), images, by("max", note=notes.append))
    assert notes == []


def test_identical_images_are_noted(tmp_path):
    np.savez(tmp_path / "same.npz", images=np.full((4, 32, 32, 3), 7, np.uint8))
    notes: list[str] = []
    images = open_images(tmp_path / "same.npz", Preprocessing(side_px=32), limit=4)
    calibrate(two_convolutions(tmp_path / "m.onnx"), images, by("max", note=notes.append))
    assert notes == ["All 4 images are identical: the ranges describe a single image."]


@pytest.mark.parametrize("count", [4, 12])
def test_each_unreadable_image_is_skipped_and_named_once(tmp_path, count):
    folder, notes = tmp_path / "images", []
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    for number in (0, 2):
        (folder / f"{number:02}.png").write_bytes(b"no image")
    images = open_images(folder, Preprocessing(side_px=8), limit=count)
    model = colour_blocks(tmp_path / "model.onnx")
    with refuses("image-unreadable"):
        calibrate(model, images, CalibrationSettings())
    calibrate(model, images, CalibrationSettings(skip_bad=True, note=notes.append))
    named = [note for note in notes if ".png" in note]
    assert sorted(re.findall(r"(\d\d)\.png", " ".join(named))) == ["00", "02"]


def test_ranges_are_written_to_calibration_under_the_models_name(random_b0, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, ranges = calibrate_to_file("generated", onnx=random_b0.path, limit=2, method="max")
    assert path == Path("calibration/efficientnet-phi0.ranges.json")
    assert Ranges.load(path).sha256 == ranges.sha256
    ranges.require_model(ranges.onnx_sha256)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_preprocessing_that_the_user_sets_is_applied_and_recorded(tmp_path):
    model = colour_blocks(tmp_path / "model.onnx")
    overrides = Overrides(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    _, ranges = calibrate_to_file(
        archive(tmp_path / "i.npz", 4, side_px=8),
        onnx=model,
        method="max",
        overrides=overrides,
        output=tmp_path / "r.json",
    )
    assert ranges.preprocessing.mean == (0.5, 0.5, 0.5)
    assert ranges.tensor_range("input").high == pytest.approx((1 - 0.5) / 0.25, abs=0.05)
    assert ranges.tensor_range("input").low == pytest.approx((0 - 0.5) / 0.25, abs=0.05)


@pytest.mark.parametrize("manifest", [None, Path("drawn.toml")])
def test_nothing_is_written_if_an_image_is_unreadable(random_b0, tmp_path, monkeypatch, manifest):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    with refuses("image-unreadable"):
        calibrate_to_file("photos", onnx=random_b0.path, manifest=manifest)
    assert files_in(tmp_path) == {"photos/broken.png"}


def test_a_quantized_model_is_refused(tmp_path, monkeypatch):
    from deploykit.engine.quantize_model import quantize_model
    from deploykit.quantize.int8_options import Int8Options

    model = colour_blocks(tmp_path / "model.onnx")
    data = archive(tmp_path / "i.npz", 4, side_px=8)
    quantized, _ = quantize_model(onnx=model, int8=Int8Options(data=data))
    before = files_in(tmp_path)
    with refuses("model-not-fp32") as caught:
        calibrate_to_file(data, onnx=quantized, output=tmp_path / "r.json")
    assert "FP32" in caught.value.fix
    assert files_in(tmp_path) == before


def test_an_unwritable_output_is_found_before_calibrating(tmp_path):
    model = colour_blocks(tmp_path / "model.onnx")
    seen: list[object] = []
    for name in ("r.json", "r.json.partial"):
        (tmp_path / name).mkdir()
        with refuses("output-not-a-file"):
            calibrate_to_file(
                "generated",
                onnx=model,
                limit=2,
                output=tmp_path / "r.json",
                progress=lambda *each: seen.append(each),
            )
        (tmp_path / name).rmdir()
    assert seen == []


def test_a_written_manifest_selects_the_same_images_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = colour_blocks(Path("model.onnx"))
    data = archive(Path("i.npz"), 30, side_px=8)
    _, first = calibrate_to_file(
        data, onnx=model, limit=9, seed=3, method="max", manifest=Path("drawn.toml"), output=Path("a.json")
    )
    _, again = calibrate_to_file("drawn.toml", onnx=model, method="max", output=Path("b.json"))
    assert again.statistics["input"].high == first.statistics["input"].high
    assert _statistics(again) == _statistics(first)
    assert again.images == 9


def _statistics(ranges: Ranges) -> object:
    return json.loads(ranges.to_json())["statistics"]
