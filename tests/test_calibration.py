from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.errors import DeployError
from deploykit.evaluate import agreement, sqnr_db, top1
from deploykit.model_file import read_model, to_bytes
from deploykit.preprocessing import Preprocessing
from deploykit.quantize.calibration import calibrate, calibrate_to_file
from deploykit.quantize.images import open_images
from deploykit.quantize.placement import pointwise
from deploykit.quantize.qdq import insert_qdq
from deploykit.quantize.ranges import Ranges
from deploykit.sessions import cpu_session


def small_model(path: Path, *, batch: int | str = "n", weight: float = 1.0) -> Path:
    """A 1x1 convolution that reads the image, a Relu, and another that reads its outcome."""
    weights = {
        "first": np.full((4, 3, 1, 1), weight, np.float32),
        "second": np.ones((2, 4, 1, 1), np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "first"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Conv", ["r", "second"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2, 32, 32])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(to_bytes(model))
    return path


def generated(side_px: int = 32, *, limit: int = 3):
    return open_images("generated", Preprocessing(side_px=side_px), limit=limit)


@pytest.fixture(scope="module")
def calibrated(shared, trained) -> Ranges:
    images = open_images(shared / "cifar10_calib.npz", trained.info.preprocessing, limit=512)
    return calibrate(trained.path, images)


def logits_of(model: Path | bytes, images: np.ndarray, *, fuse_int8: bool) -> np.ndarray:
    session = cpu_session(model, fuse_int8=fuse_int8)
    return np.concatenate([session.run(None, {"input": batch})[0] for batch in np.split(images, 20)])


def test_int8_answers_as_fp32_does(trained, calibrated, validation):
    images = trained.info.preprocessing.normalize(validation.pixels)
    model = read_model(trained.path)
    int8 = to_bytes(insert_qdq(model, pointwise(model), calibrated))
    reference = logits_of(trained.path, images, fuse_int8=True)
    actual = logits_of(int8, images, fuse_int8=False)
    # 1459 of 2000: data/README.md; timm's own logits give it.
    assert round(2000 * top1(reference, validation.labels)) == 1459
    assert 100 * abs(top1(actual, validation.labels) - 1459 / 2000) <= 1.0
    assert agreement(actual, reference) >= 0.97
    assert sqnr_db(actual, reference) > 25


def test_every_activation_of_the_placement_is_measured_on_every_value(trained, calibrated):
    assert set(calibrated.histograms) == {node.activation for node in pointwise(read_model(trained.path))}
    assert len(calibrated.histograms) == 33
    # conv_head reads 320 channels of 2 x 2 pixels, and the classifier 1280 numbers, of 512 images.
    assert calibrated.histograms["classifier.flatten"].counts.sum() == 512 * 1280
    assert calibrated.histograms["blocks.6.0.conv_pwl"].counts.sum() == 512 * 320 * 2 * 2


def test_ranges_say_what_they_were_measured_on(shared, calibrated):
    assert calibrated.images == 512
    assert calibrated.source == str(shared / "cifar10_calib.npz")
    assert calibrated.method == "percentile"


def test_calibrating_twice_gives_the_same(shared, trained):
    images = open_images(shared / "cifar10_calib.npz", trained.info.preprocessing, limit=19)
    first, second = (calibrate(trained.path, images) for _ in range(2))
    assert first.sha256 == second.sha256
    assert first.images == 19


def test_the_maximum_is_the_largest_magnitude_that_the_model_makes(tmp_path):
    model = small_model(tmp_path / "small.onnx")
    images = generated()
    ranges = calibrate(model, images, method="max")
    (batch,) = images.batches(8)
    summed = np.abs(np.maximum(batch.sum(axis=1), 0)).max()  # the first weight is all ones
    assert ranges.amax("image") == pytest.approx(float(np.abs(batch).max()))
    assert ranges.amax("r") == pytest.approx(float(summed), rel=1e-5)


def test_a_lower_percentile_gives_a_smaller_range(tmp_path):
    model = small_model(tmp_path / "small.onnx")
    wide, narrow = (calibrate(model, generated(), percentile=percentile) for percentile in (100, 60))
    assert narrow.amax("image") < 0.9 * wide.amax("image")
    assert replace(wide, percentile=60).amax("image") == narrow.amax("image")


def test_progress_counts_images_to_the_last(tmp_path):
    seen = []
    calibrate(
        small_model(tmp_path / "small.onnx"),
        generated(limit=11),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(8, 11), (11, 11)]


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path, weight):
    model = small_model(tmp_path / "broken.onnx", weight=weight)
    with pytest.raises(DeployError, match=r"broken\.onnx holds NaN or Inf in first"):
        calibrate(model, generated())


def test_activations_that_overflow_are_named(tmp_path):
    model = small_model(tmp_path / "broken.onnx", weight=3e38)
    with pytest.raises(DeployError, match="activations r are not finite"):
        calibrate(model, generated())


@pytest.mark.parametrize("percentile", [0, 50, 100.1, float("nan")])
def test_a_percentile_that_is_none_is_refused(tmp_path, percentile):
    with pytest.raises(DeployError, match="is no range"):
        calibrate(small_model(tmp_path / "small.onnx"), generated(), percentile=percentile)


def test_a_model_with_nothing_to_quantize_is_refused(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["y"])],
        "none",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 32, 32])],
    )
    path = tmp_path / "none.onnx"
    path.write_bytes(to_bytes(helper.make_model(graph, ir_version=10)))
    with pytest.raises(DeployError, match="no pointwise convolution or linear layer"):
        calibrate(path, generated())


def test_a_model_of_fixed_batch_is_refused(tmp_path):
    with pytest.raises(DeployError, match="batch dynamic"):
        calibrate(small_model(tmp_path / "fixed.onnx", batch=1), generated())


def test_ranges_land_in_calibration_under_the_models_name(random_b0, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, ranges = calibrate_to_file("generated", onnx=random_b0.path, limit=2)
    assert path == Path("calibration/efficientnet-phi0.ranges.json")
    assert Ranges.load(path).sha256 == ranges.sha256
    ranges.require_model(ranges.onnx_sha256)


def test_nothing_is_written_where_an_image_is_broken(random_b0, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    with pytest.raises(DeployError, match=r"broken\.png"):
        calibrate_to_file("photos", onnx=random_b0.path)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
