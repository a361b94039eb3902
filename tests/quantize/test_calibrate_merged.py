import json
from pathlib import Path

import numpy as np
import pytest
from folders import files_in
from refusals import refuses
from small_models import archive, colour_blocks

from deploykit.data.preprocessing import Overrides
from deploykit.quantize.calibration.methods import METHOD_NAMES
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration_files import calibrate_to_file, merge_ranges_files


def _statistics(ranges: Ranges) -> object:
    return json.loads(ranges.to_json())["statistics"]


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_merging_two_halves_equals_calibrating_on_all_images(tmp_path, method):
    model = colour_blocks(tmp_path / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 3)).astype(np.uint8)
    for name, part in {"a": pixels[:8], "b": pixels[8:], "all": pixels}.items():
        data = tmp_path / f"{name}.npz"
        np.savez(data, images=part)
        calibrate_to_file(data, onnx=model, method=method, output=tmp_path / f"{name}.json")
    halves = [tmp_path / "a.json", tmp_path / "b.json"]
    for order in (halves, halves[::-1]):
        path, merged = merge_ranges_files(order, output=tmp_path / "merged.json")
        file, whole = (json.loads(each.read_text()) for each in (path, tmp_path / "all.json"))
        assert file["sources"] == [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
        assert {**file, "sources": None} == {**whole, "sources": None}
        assert merged.images == 21


def test_merging_can_apply_one_method_to_ranges_chosen_by_auto(tmp_path):
    model = colour_blocks(tmp_path / "model.onnx")
    files = []
    for seed in (0, 1):
        data = archive(tmp_path / f"{seed}.npz", 12, side_px=8, seed=seed)
        files.append(calibrate_to_file(data, onnx=model, output=tmp_path / f"{seed}.json")[0])
    _, kept = merge_ranges_files(files, output=tmp_path / "kept.json")
    assert kept.images == 2 * 9
    assert {score.error.images for score in kept.choice.scores} == {2 * 3}
    assert kept.method == kept.choice.best
    _, read = merge_ranges_files(files, method="percentile", percentile=99.5, output=tmp_path / "read.json")
    assert (str(read.method), read.choice) == ("percentile 99.5", None)
    assert _statistics(read) == _statistics(kept)


@pytest.mark.parametrize(
    ("second", "code"),
    [
        ({"model": "other.onnx"}, "ranges-wrong-model"),
        ({"overrides": Overrides(mean=(0.1, 0.1, 0.1))}, "ranges-preprocessing-mismatch"),
        ({"method": "mse"}, "ranges-not-mergeable"),
        ({"method": "auto"}, "ranges-not-mergeable"),
        ({}, "ranges-repeated"),
    ],
    ids=["model", "preprocessing", "method", "auto", "twice the same"],
)
def test_incompatible_files_are_not_merged_and_nothing_is_written(tmp_path, monkeypatch, second, code):
    monkeypatch.chdir(tmp_path)
    models = {"model.onnx": colour_blocks(Path("model.onnx")), "other.onnx": Path("other.onnx")}
    colour_blocks(models["other.onnx"], random=True)
    data = archive(Path("i.npz"), 12, side_px=8)
    calibrate_to_file(data, onnx=models["model.onnx"], method="max", output=Path("a.json"))
    settings = {"method": "max", **{key: value for key, value in second.items() if key != "model"}}
    model = models[second.get("model", "model.onnx")]
    calibrate_to_file(data, onnx=model, output=Path("b.json"), **settings)
    before = files_in(tmp_path)
    with refuses(code):
        merge_ranges_files([Path("a.json"), Path("b.json")], output=Path("c.json"))
    assert files_in(tmp_path) == before
