import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from small_models import PREPROCESSING, colour_blocks, colour_ranges
from solid_colours import write_images

from deploykit.data.images import open_images
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.networks.model_info import read_model_info
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.calibrate import CalibrationSettings
from deploykit.quantize.calibration.method_choice import ErrorSum, MethodChoice, MethodScore
from deploykit.quantize.calibration.methods import named_method
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.find_ranges import GENERATED_IMAGES, find_ranges, load_or_measure_ranges


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with five images in images/."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    return tmp_path


@pytest.fixture
def model(folder: Path) -> Path:
    """With trained weights."""
    return colour_blocks(folder / "model.onnx")


@pytest.fixture
def random(folder: Path) -> Path:
    return colour_blocks(folder / "random.onnx", random=True)


def wanted(
    model: Path,
    *,
    ranges: Path | None = None,
    data: str | Path | None = None,
    notes: list[str] | None = None,
    overrides: Overrides = NO_OVERRIDES,
    **settings,
) -> Ranges:
    return find_ranges(
        model,
        read_model_info(read_model(model)),
        ranges=ranges,
        data=data,
        overrides=overrides,
        settings=CalibrationSettings(note=(notes if notes is not None else []).append, **settings),
    )


def test_given_ranges_are_used_and_noted(model):
    colour_ranges(model).save(Path("mine.json"))
    notes: list[str] = []
    found = wanted(model, ranges=Path("mine.json"), notes=notes)
    assert found.sha256 == colour_ranges(model).sha256
    assert notes == ["Ranges: mine.json, from 1 images of by hand (max)."]


def test_the_note_says_that_auto_chose_the_method(model):
    choice = MethodChoice(
        scores=(MethodScore(method=named_method("max"), error=ErrorSum(total=0.5, images=9)),), noise={}
    )
    replace(colour_ranges(model), choice=choice, sources=("a", "b")).save(Path("auto.json"))
    notes: list[str] = []
    wanted(model, ranges=Path("auto.json"), notes=notes)
    assert notes == ["Ranges: auto.json, from 1 images of a, b (max, chosen by output error)."]


@pytest.mark.parametrize("data", ["images", "generated"])
def test_ranges_and_images_both_given_are_refused(model, data):
    colour_ranges(model).save(Path("mine.json"))
    with refuses("option-conflict"):
        wanted(model, ranges=Path("mine.json"), data=data)


def test_given_ranges_of_another_model_are_refused(model, random):
    colour_ranges(random).save(Path("other.json"))
    with refuses("ranges-wrong-model"):
        wanted(model, ranges=Path("other.json"))


def test_truncated_ranges_are_refused(model):
    Path("cut.json").write_text(colour_ranges(model).to_json()[:-20])
    with refuses("ranges-damaged"):
        wanted(model, ranges=Path("cut.json"))


def test_missing_ranges_are_refused(model):
    with refuses("ranges-not-found") as caught:
        wanted(model, ranges=Path("none.json"))
    assert "none.json" in caught.value.problem


def save(ranges: Ranges, name: str, *, seconds: int) -> None:
    """Into calibration/, as old as that."""
    path = Path("calibration") / name
    ranges.save(path)
    os.utime(path, (1_000_000 - seconds, 1_000_000 - seconds))


def test_the_newest_ranges_of_the_model_are_found_under_any_name(model, random):
    save(colour_ranges(random), "model.ranges.json", seconds=0)
    save(replace(colour_ranges(model), sources=("older",)), "z.ranges.json", seconds=20)
    save(replace(colour_ranges(model), sources=("newer",)), "a.ranges.json", seconds=10)
    notes: list[str] = []
    assert wanted(model, notes=notes).sources == ("newer",)
    assert notes == ["Ranges: calibration/a.ranges.json, from 1 images of newer (max)."]


def test_damaged_ranges_in_the_folder_are_ignored_with_a_note(model):
    save(colour_ranges(model), "good.ranges.json", seconds=10)
    Path("calibration/cut.ranges.json").write_text(colour_ranges(model).to_json()[:-20])
    notes: list[str] = []
    assert wanted(model, notes=notes).sha256 == colour_ranges(model).sha256
    ignored, source = notes
    assert "calibration/cut.ranges.json" in ignored
    assert "good.ranges.json" in source


def test_other_files_in_the_folder_are_ignored(model):
    calibration = Path("calibration")
    calibration.mkdir()
    colour_ranges(model).save(calibration / "model.ranges.json.partial")
    colour_ranges(model).save(calibration / "other.json")
    (calibration / "folder.ranges.json").mkdir()
    with refuses("calibration-data-missing"):
        wanted(model)


@pytest.mark.parametrize("data", ["images", "generated"])
def test_given_images_take_precedence_over_found_ranges(model, data):
    save(colour_ranges(model), "model.ranges.json", seconds=0)
    found = wanted(model, data=data, method=named_method("max"))
    assert found.sources == (data,)


def test_given_images_are_calibrated_with_the_settings(model):
    seen: list[str] = []
    found = wanted(model, data="images", progress=lambda what, *_: seen.append(what))
    assert found.images == 5
    assert found.choice is not None
    assert set(seen) == {"calibrating", "choosing ranges"}
    assert wanted(model, data="images", method=named_method("max")).tensor_range("input").high == 1
    doubled = Overrides(std=(0.5, 0.5, 0.5))
    found = wanted(model, data="images", method=named_method("max"), overrides=doubled)
    assert found.tensor_range("input").high == 2


def test_trained_weights_without_images_or_ranges_are_refused(model):
    with refuses("calibration-data-missing") as caught:
        wanted(model)
    assert "model.onnx" in caught.value.problem
    assert "--data DIR" in caught.value.fix


def test_random_weights_are_calibrated_on_generated_images_with_a_note(random):
    notes: list[str] = []
    found = wanted(random, notes=notes)
    assert found.sources == ("generated",)
    assert found.images == GENERATED_IMAGES
    assert found.choice is None  # a choice by accuracy would say nothing
    (sentence,) = notes
    assert "Random weights" in sentence
    assert "not accuracy" in sentence


def test_ranges_of_random_weights_are_found(random):
    save(colour_ranges(random), "random.ranges.json", seconds=0)
    assert wanted(random).sources == ("by hand",)


def test_generated_images_for_trained_weights_are_noted(model):
    notes: list[str] = []
    wanted(model, data="generated", notes=notes, method=named_method("max"))
    warning, source = notes
    assert "expect less accuracy" in warning
    assert "512 images of generated (max)" in source


def test_generated_images_for_random_weights_need_no_note(random):
    notes: list[str] = []
    wanted(random, data="generated", notes=notes, method=named_method("max"))
    assert not any("expect less accuracy" in note for note in notes)


def test_unusable_images_are_refused(model):
    with refuses("file-not-found"):
        wanted(model, data="nowhere")
    Path("images/a/0.png").write_bytes(b"no image")
    with refuses("image-unreadable"):
        wanted(model, data="images")
    assert wanted(model, data="images", skip_bad=True).images == 4


# Ranges of images prepared otherwise are of other activations.
def test_preprocessing_that_differs_from_the_ranges_is_refused(model):
    colour_ranges(model).save(Path("mine.json"))
    other = Overrides(mean=(0.5, 0.5, 0.5))
    same = Overrides(mean=PREPROCESSING.mean)
    assert wanted(model, ranges=Path("mine.json"), overrides=same).sources == ("by hand",)
    with refuses("ranges-preprocessing-mismatch") as caught:
        wanted(model, ranges=Path("mine.json"), overrides=other)
    assert "--data" in caught.value.fix


def test_for_sensitivity_ranges_are_given_found_or_measured(model):
    images = open_images("images", PREPROCESSING, limit=4)
    settings = CalibrationSettings(method=named_method("max"))
    assert load_or_measure_ranges(model, None, images, settings).sources == ("images",)
    save(colour_ranges(model), "model.ranges.json", seconds=0)
    assert load_or_measure_ranges(model, None, images, settings).sources == ("by hand",)
    replace(colour_ranges(model), sources=("given",)).save(Path("given.json"))
    assert load_or_measure_ranges(model, Path("given.json"), images, settings).sources == ("given",)


def test_a_ranges_file_without_a_format_is_ignored(model):
    Path("calibration").mkdir()
    Path("calibration/foreign.ranges.json").write_text('{"ranges": {"x": [0, 1]}}')
    np.savez("calibration/archive.ranges.json.npz", x=1)
    notes: list[str] = []
    with refuses("calibration-data-missing"):
        wanted(model, notes=notes)
    assert len(notes) == 1
    assert "foreign.ranges.json" in notes[0]
