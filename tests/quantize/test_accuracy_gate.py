from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from refusals import refuses
from small_models import MACS, PREPROCESSING, colour_blocks, colour_ranges
from solid_colours import write_images

from deploykit.data.images import Images, open_images
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.accuracy_gate import GateResult, apply_accuracy_gate, open_like_tensorrt
from deploykit.quantize.placement import Placement, place_int8
from deploykit.util.errors import DeployError

# What solid_colours' five images lose, by hand. Where a tensor is clipped to 0.7, (0.8, 1, 0) has as much red
# as green, and red is the first; clipped to 0.3, (0.4, 0.6, 0) too: one and two of five, 20 and 40 points.
INTO_BLOCK_0, INTO_BLOCK_1, INTO_LOGITS = "input", "blocks.0.relu", "flat"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return colour_blocks(tmp_path / "model.onnx")


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return open_images(write_images(tmp_path / "images"), PREPROCESSING, limit=100)


def placement_of(path: Path) -> Placement:
    return place_int8(read_model(path), "all-conv")


def gate(path: Path, images: Images, reach: dict[str, float], *, max_drop: float, **others) -> GateResult:
    model = read_model(path)
    return apply_accuracy_gate(
        model, placement_of(path), colour_ranges(path, reach), images, max_drop=max_drop, **others
    )


def test_a_placement_without_a_drop_stays_complete(path, images):
    result = gate(path, images, {}, max_drop=0)
    assert result == GateResult(
        placement=placement_of(path),
        top1_drop=0,
        initial_top1_drop=0,
        images=5,
        float_blocks=(),
        macs_share=0,
    )


@pytest.mark.parametrize(("max_drop", "reach"), [(20, 0.7), (40, 0.3), (100, 0.3)])
def test_a_placement_within_the_bound_stays_complete(path, images, max_drop, reach):
    result = gate(path, images, {INTO_BLOCK_1: reach}, max_drop=max_drop)
    assert result.top1_drop == result.initial_top1_drop == pytest.approx(20 if reach == 0.7 else 40)
    assert result.float_blocks == ()


@pytest.mark.parametrize(
    ("tensor", "block"), [(INTO_BLOCK_0, "blocks.0"), (INTO_BLOCK_1, "blocks.1"), (INTO_LOGITS, "logits")]
)
def test_the_block_that_causes_the_drop_moves_to_float(path, images, tensor, block):
    result = gate(path, images, {tensor: 0.3}, max_drop=0)
    assert result.float_blocks == (block,)
    assert (result.initial_top1_drop, result.top1_drop) == (pytest.approx(40), 0)
    assert result.macs_share == pytest.approx(MACS[block] / sum(MACS.values()))
    assert not any(output.startswith(block) for output in result.placement.outputs)
    assert len(result.placement.outputs) == 2


def test_only_as_many_blocks_as_needed_move_to_float_costliest_first(path, images):
    reach = {INTO_BLOCK_1: 0.3, INTO_LOGITS: 0.7}
    result = gate(path, images, reach, max_drop=20)
    assert (result.float_blocks, result.initial_top1_drop, result.top1_drop) == (("blocks.1",), 40, 20)
    both = gate(path, images, reach, max_drop=19.9)
    assert (both.float_blocks, both.initial_top1_drop, both.top1_drop) == (("blocks.1", "logits"), 40, 0)


# 1 of 200 is half a point, which no sum of floats is to turn into more: 100 * (1 - 0.995) > 0.5.
@pytest.mark.parametrize(("count", "wrong", "max_drop"), [(200, 1, 0.5), (1000, 3, 0.3), (1000, 7, 0.7)])
def test_a_drop_equal_to_the_bound_is_allowed(path, tmp_path, count, wrong, max_drop):
    pixels = np.zeros((count, 8, 8, 3), np.uint8)
    pixels[..., 1] = 255
    pixels[:wrong, ..., 0] = 204
    np.savez(tmp_path / "many.npz", images=pixels, labels=np.ones(count, int))
    images = open_images(tmp_path / "many.npz", PREPROCESSING, limit=count)
    result = gate(path, images, {INTO_BLOCK_1: 0.7}, max_drop=max_drop)
    assert result.float_blocks == ()
    assert result.top1_drop == max_drop
    with refuses("gate-failed"):
        gate(path, images, {INTO_BLOCK_0: 0.7, INTO_BLOCK_1: 0.7}, max_drop=max_drop - 0.001)


def test_a_gain_of_top1_passes_any_bound(path, tmp_path):
    np.savez(
        tmp_path / "wrong.npz",
        images=np.broadcast_to(np.array([204, 255, 0], np.uint8), (4, 8, 8, 3)),
        labels=np.zeros(4, int),
    )
    images = open_images(tmp_path / "wrong.npz", PREPROCESSING, limit=4)
    assert gate(path, images, {INTO_BLOCK_1: 0.7}, max_drop=0).top1_drop == -100


# Both blocks of convolutions are 99 % of the work: without them it would be no INT8 model.
def test_a_bound_that_leaves_too_little_in_int8_fails(path, images):
    with pytest.raises(DeployError) as caught:
        gate(path, images, {INTO_BLOCK_0: 0.7, INTO_BLOCK_1: 0.3}, max_drop=10)
    assert "by 20.00 points, more than the allowed 10" in caught.value.problem
    assert "--max-drop" in caught.value.fix


def test_every_step_is_reported(path, images):
    seen: list[tuple[str, int, int]] = []
    gate(path, images, {INTO_BLOCK_1: 0.3}, max_drop=0, progress=lambda *each: seen.append(each))
    assert seen == [
        ("measuring top-1 of FP32", 5, 5),
        ("measuring top-1 of INT8", 5, 5),
        ("measuring blocks", 1, 3),
        ("measuring blocks", 2, 3),
        ("measuring blocks", 3, 3),
        ("measuring top-1 of INT8", 5, 5),
    ]


def test_images_without_labels_are_refused(path, tmp_path):
    flat = open_images(write_images(tmp_path / "flat", labelled=False), PREPROCESSING, limit=9)
    with refuses("images-unlabelled") as caught:
        gate(path, flat, {}, max_drop=1)
    assert "labels" in caught.value.fix


@pytest.mark.parametrize("labels", [[0, 3], [0, 99]])
def test_labels_beyond_the_models_outputs_are_refused(path, tmp_path, labels):
    np.savez(tmp_path / "l.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array(labels))
    images = open_images(tmp_path / "l.npz", PREPROCESSING, limit=2)
    with refuses("class-count-mismatch") as caught:
        gate(path, images, {}, max_drop=1)
    assert str(labels[-1]) in caught.value.problem


@pytest.mark.parametrize("classes", [("a", "b", "c", "d"), ("a", "b", "c", "d", "e")])
def test_folders_that_are_not_the_models_classes_are_refused(path, tmp_path, classes):
    images = open_images(write_images(tmp_path / "others", classes=classes), PREPROCESSING, limit=9)
    with refuses("class-count-mismatch"):
        gate(path, images, {}, max_drop=1)


def test_wrong_labels_are_found_at_the_first_batch(path, tmp_path):
    pixels, labels = np.zeros((500, 8, 8, 3), np.uint8), np.zeros(500, int)
    labels[-1] = 7
    np.savez(tmp_path / "late.npz", images=pixels, labels=labels)
    images = open_images(tmp_path / "late.npz", PREPROCESSING, limit=500)
    seen: list[int] = []
    with refuses("class-count-mismatch"):
        gate(path, images, {}, max_drop=1, progress=lambda what, done, total: seen.append(done))
    assert all(done < 100 for done in seen)


def test_an_unreadable_image_fails_or_is_skipped(path, images, tmp_path):
    (tmp_path / "images" / "a" / "0.png").write_bytes(b"no image")
    with refuses("image-unreadable"):
        gate(path, images, {INTO_BLOCK_1: 0.3}, max_drop=0)
    named: list[str] = []
    result = gate(
        path,
        images,
        {INTO_BLOCK_1: 0.3},
        max_drop=0,
        on_skipped=lambda error: named.append(error.problem),
    )
    assert len(named) == 1
    assert result.images == 4
    assert (result.initial_top1_drop, result.top1_drop) == (50, 0)  # two of the four that are left
    assert result.float_blocks == ("blocks.1",)


def test_labels_on_which_fp32_is_guessing_are_refused(path, tmp_path):
    """Every image is green, and no label says so: FP32 is right on none of forty."""
    pixels = np.zeros((40, 8, 8, 3), np.uint8)
    pixels[..., 1] = 255
    np.savez(tmp_path / "shifted.npz", images=pixels, labels=np.full(40, 2))
    images = open_images(tmp_path / "shifted.npz", PREPROCESSING, limit=40)
    with refuses("gate-reference-too-weak") as caught:
        gate(path, images, {}, max_drop=1)
    assert "alphabetical order" in caught.value.fix


def test_the_gate_measures_with_the_given_session(path, images):
    """An artifact that confuses red and green, whatever its Q/DQ, loses its red and green images."""
    opened: list[int] = []

    def confused(model):
        opened.append(sum(node.op_type == "QuantizeLinear" for node in model.graph.node))
        swapped = numpy_helper.from_array(np.eye(3, dtype=np.float32)[[1, 0, 2]], "swapped")
        model.graph.initializer.append(swapped)
        model.graph.node[-1].output[0] = "straight"
        model.graph.node.append(helper.make_node("MatMul", ["straight", "swapped"], ["logits"]))
        return open_like_tensorrt(model)

    with refuses("gate-failed"):
        gate(path, images, {}, max_drop=10, open_session=confused)
    assert opened[0] > 0


def test_ranges_that_lack_a_tensor_are_refused(path, images):
    sound = colour_ranges(path)
    lacking = replace(sound, statistics={"input": sound.statistics["input"]})
    with refuses("ranges-incomplete"):
        apply_accuracy_gate(read_model(path), placement_of(path), lacking, images, max_drop=1)
