from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from small_models import BLOCKS, MACS, PREPROCESSING, colour_blocks, colour_ranges
from solid_colours import COLOURS, write_images

import deploykit
from deploykit.data.images import open_images
from deploykit.data.preprocessing import Overrides
from deploykit.engine.quantize_model import quantize_model
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.calibrate import CalibrationSettings, calibrate
from deploykit.quantize.calibration.methods import named_method
from deploykit.quantize.int8_options import Int8Options
from deploykit.quantize.placement import place_int8
from deploykit.quantize.sensitivity import Sensitivity, measure_block_sensitivity, measure_sensitivity

# Clipped to 0.3 before block 1, to 0.7 before the classifier: of the five images two are answered wrongly,
# and one. See test_gate.
REACH = {"blocks.0.relu": 0.3, "flat": 0.7}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return colour_blocks(tmp_path / "model.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def measured(path: Path, folder: Path, reach: dict[str, float] = REACH, **others) -> Sensitivity:
    model = read_model(path)
    images = open_images(folder, PREPROCESSING, limit=100)
    ranges = colour_ranges(path, reach)
    return measure_block_sensitivity(model, place_int8(model, "all-conv"), ranges, images, **others)


def test_blocks_come_one_at_a_time_the_costliest_first(path, folder):
    result = measured(path, folder)
    assert [cost.block for cost in result.blocks] == ["blocks.1", "logits", "blocks.0"]
    assert [cost.error for cost in result.blocks] == sorted((c.error for c in result.blocks), reverse=True)
    assert [cost.top1_change for cost in result.blocks] == pytest.approx([-40, -20, 0])
    assert (result.images, result.top1) == (5, 1)


# By hand. Clipped to 0.3 the logits are a red, green or blue of 0.3, and twice (0.3, 0.3, 0).
def test_error_and_sqnr_are_those_of_the_logits(path, folder):
    (worst, *_, sound) = measured(path, folder).blocks
    reference = np.array(COLOURS) / 255
    clipped = np.minimum(reference, 0.3)
    noise, signal = np.var(clipped - reference, axis=1), np.var(reference, axis=1)
    assert worst.error == pytest.approx((noise / (noise + signal)).mean(), rel=0.02)
    power = np.square(reference).sum() / np.square(clipped - reference).sum()
    assert worst.sqnr_db == pytest.approx(10 * np.log10(power), abs=0.1)
    assert sound.error < 1e-4
    assert sound.sqnr_db > 40


def test_the_total_has_everything_in_int8_at_once(path, folder):
    whole = measured(path, folder).whole
    assert whole.block == "all"
    assert whole.macs_share == 1
    assert whole.top1_change == pytest.approx(-40)
    assert whole.error >= max(cost.error for cost in measured(path, folder).blocks) - 1e-3


def test_shares_of_the_work_are_counted_by_hand(path, folder):
    result = measured(path, folder)
    shares = {cost.block: cost.macs_share for cost in result.blocks}
    assert shares == pytest.approx({block: MACS[block] / sum(MACS.values()) for block in BLOCKS})


def test_top1_is_omitted_without_labels(path, tmp_path):
    result = measured(path, write_images(tmp_path / "flat", labelled=False))
    assert result.top1 is None
    assert {cost.top1_change for cost in (*result.blocks, result.whole)} == {None}
    assert [cost.block for cost in result.blocks] == ["blocks.1", "logits", "blocks.0"]


def test_identical_outputs_have_no_sqnr(path, tmp_path):
    np.savez(tmp_path / "black.npz", images=np.zeros((3, 8, 8, 3), np.uint8), labels=np.zeros(3, int))
    result = measured(path, tmp_path / "black.npz", {})
    assert {(cost.sqnr_db, cost.error) for cost in (*result.blocks, result.whole)} == {(None, 0)}


def test_progress_counts_blocks_to_the_last(path, folder):
    seen = []
    measured(path, folder, progress=lambda *each: seen.append(each))
    assert seen == [("measuring blocks", done, 3) for done in (1, 2, 3)]


def test_labels_beyond_the_models_outputs_are_refused(path, tmp_path):
    np.savez(tmp_path / "l.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([0, 9]))
    with refuses("class-count-mismatch"):
        measured(path, tmp_path / "l.npz")


def test_wrong_labels_are_found_before_anything_is_calibrated(path, tmp_path):
    np.savez(tmp_path / "l.npz", images=np.zeros((20, 8, 8, 3), np.uint8), labels=np.full(20, 9))
    seen: list[str] = []
    with refuses("class-count-mismatch"):
        measure_sensitivity(path, tmp_path / "l.npz", progress=lambda what, *_: seen.append(what))
    assert seen == []


def test_given_ranges_are_used(path, folder, tmp_path):
    colour_ranges(path, REACH).save(tmp_path / "r.json")
    notes: list[str] = []
    result = measure_sensitivity(
        path, folder, ranges=tmp_path / "r.json", policy="all-conv", note=notes.append
    )
    assert result == measured(path, folder)
    assert any("r.json, from 1 images of by hand (max)" in note for note in notes)


def test_ranges_are_found_or_measured_on_the_images(path, folder, monkeypatch):
    monkeypatch.chdir(path.parent)
    own = measure_sensitivity(path, folder, policy="all-conv")
    assert own.whole.error < 1e-3  # measured on these very images, they clip nothing
    colour_ranges(path, REACH).save(Path("calibration/model.ranges.json"))
    assert measure_sensitivity(path, folder, policy="all-conv") == measured(path, folder)


def test_ranges_of_another_model_are_refused(path, folder, tmp_path):
    replace(colour_ranges(path), onnx_sha256="b" * 64).save(tmp_path / "other.json")
    with refuses("ranges-wrong-model"):
        measure_sensitivity(path, folder, ranges=tmp_path / "other.json")


def test_an_int8_model_is_refused(path, folder, tmp_path):
    quantized, _ = quantize_model(onnx=path, int8=Int8Options(data=folder), output=tmp_path / "q.onnx")
    with refuses("model-not-fp32") as caught:
        measure_sensitivity(quantized, folder)
    assert "FP32" in caught.value.fix


def test_the_number_of_images_is_limited(path, folder, tmp_path):
    colour_ranges(path).save(tmp_path / "r.json")
    assert measure_sensitivity(path, folder, images=3, ranges=tmp_path / "r.json").images == 3
    assert measure_sensitivity(path, folder, images=50, ranges=tmp_path / "r.json").images == 5


def test_unreadable_images_can_be_skipped(path, folder, tmp_path):
    colour_ranges(path, REACH).save(tmp_path / "r.json")
    (folder / "b" / "3.png").write_bytes(b"no image")
    with refuses("image-unreadable"):
        measure_sensitivity(path, folder, ranges=tmp_path / "r.json")
    notes: list[str] = []
    result = measure_sensitivity(
        path,
        folder,
        ranges=tmp_path / "r.json",
        policy="all-conv",
        skip_bad=True,
        note=notes.append,
    )
    assert result.images == 4
    assert result.blocks[0].top1_change == pytest.approx(-25)  # the other one of the two that are clipped
    assert any("3.png" in note for note in notes)


@pytest.mark.parametrize("policy", ["pointwise", "bandwidth", "all-conv"])
def test_each_policy_shows_its_own_layers(path, folder, tmp_path, policy):
    colour_ranges(path).save(tmp_path / "r.json")
    result = measure_sensitivity(path, folder, ranges=tmp_path / "r.json", policy=policy)
    shown = {cost.block for cost in result.blocks}
    assert shown == set(BLOCKS) - ({"blocks.0"} if policy == "bandwidth" else set())


def test_images_are_prepared_like_those_of_the_ranges(path, folder, tmp_path):
    blind = Overrides(std=(1e6, 1e6, 1e6))
    ranges = colour_ranges(path)
    replace(ranges, preprocessing=ranges.preprocessing.override(blind)).save(tmp_path / "r.json")
    result = measure_sensitivity(path, folder, ranges=tmp_path / "r.json")
    # Numbers near zero are all rounded to it: the noise is as large as the signal.
    assert result.whole.error == pytest.approx(0.5, abs=1e-3)
    assert measure_sensitivity(path, folder, ranges=tmp_path / "r.json", overrides=blind) == result


def test_preprocessing_that_differs_from_the_ranges_is_refused(path, folder, tmp_path):
    colour_ranges(path).save(tmp_path / "r.json")
    with refuses("ranges-preprocessing-mismatch"):
        measure_sensitivity(path, folder, ranges=tmp_path / "r.json", overrides=Overrides(std=(9, 9, 9)))


def test_it_is_public():
    assert deploykit.measure_sensitivity is measure_sensitivity


def test_every_block_of_the_trained_model_is_measured(shared, trained, tmp_path):
    data = shared / "cifar10_val.npz"
    images = open_images(data, trained.info.preprocessing, limit=16)
    calibrate(trained.path, images, CalibrationSettings(method=named_method("max"))).save(tmp_path / "r.json")
    result = measure_sensitivity(trained.path, data, images=16, ranges=tmp_path / "r.json")
    blocks = {cost.block for cost in result.blocks}
    # B0 has 16 blocks, between a first convolution, which isn't pointwise, and conv_head and classifier.
    assert len(blocks) == 18
    assert {"blocks.0.0", "blocks.2.1", "blocks.6.0", "conv_head"} <= blocks
    assert all(0 <= cost.error < 0.1 for cost in result.blocks)
    assert sum(cost.macs_share for cost in result.blocks) == pytest.approx(result.whole.macs_share)
