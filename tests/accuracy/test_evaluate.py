import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from refusals import refuses
from solid_colours import (
    COLOURS,
    INFO,
    LABELS,
    PREPROCESSING,
    SIDE_PX,
    SQNR_DB,
    write_fp32,
    write_images,
    write_int8,
)

import deploykit
from deploykit.accuracy.evaluate import evaluate_model
from deploykit.data.images.manifest import write_image_manifest
from deploykit.data.images.open import open_images
from deploykit.data.preprocessing import Overrides
from deploykit.engine.shapes import BatchRange
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.runtime import Engine
from deploykit.stats.accuracy_metrics import sqnr_db, tango_interval, wilson_interval
from deploykit.util.errors import DeployError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that is the current one, as engines/ is looked for there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fp32(folder):
    return write_fp32(folder / "model.onnx")


@pytest.fixture
def int8(folder, fp32):
    return write_int8(folder / "model.int8.onnx", of=fp32)


@pytest.fixture
def images(folder):
    return write_images(folder / "images")


def refused(*arguments, **options) -> DeployError:
    with pytest.raises(DeployError) as caught:
        evaluate_model(*arguments, **options)
    return caught.value


def test_accuracy_agreement_and_sqnr_are_those_computed_by_hand(int8, fp32, images):
    found = evaluate_model(int8, images)
    assert found.reference == fp32
    assert found.count == 5
    assert found.scores.top1 == wilson_interval(4, 5)
    assert found.scores.reference_top1 == wilson_interval(5, 5)
    assert found.scores.top1_drop == tango_interval(1, 0, 5)
    assert found.scores.agreement == wilson_interval(4, 5)
    assert found.scores.sqnr_db == pytest.approx(SQNR_DB, abs=1e-4)


def test_without_labels_agreement_and_sqnr_are_left(int8, folder):
    found = evaluate_model(int8, write_images(folder / "flat", labelled=False)).scores
    assert (found.top1, found.top5, found.reference_top1, found.top1_drop) == (None, None, None, None)
    assert found.agreement == wilson_interval(4, 5)
    assert found.sqnr_db == pytest.approx(SQNR_DB, abs=1e-4)


def test_an_fp32_model_is_compared_with_labels_alone_and_needs_no_note(fp32, images):
    notes: list[str] = []
    found = evaluate_model(fp32, images, note=notes.append)
    assert found.scores.top1 == wilson_interval(5, 5)
    assert (found.reference, found.scores.agreement, found.scores.sqnr_db) == (None, None, None)
    assert notes == []


def test_top5_is_left_out_where_any_five_classes_are_all(int8, images, folder):
    assert evaluate_model(int8, images).scores.top5 is None
    six = write_fp32(folder / "six.onnx", repeat=2)
    archive = folder / "six.npz"
    # Red is class 0, and class 3 again; the five others never all come before it, green's 1 once does for 4.
    pixels = np.broadcast_to(np.array(COLOURS, np.uint8)[:, None, None], (5, SIDE_PX, SIDE_PX, 3))
    np.savez(archive, images=pixels, labels=[0, 3, 5, 4, 2], classes=list("abcdef"))
    # By hand, places of the labels: 1st, 5th of (g g' r b r' b') as r' comes after r and b, 2nd, 2nd, 5th.
    found = evaluate_model(six, archive).scores
    assert found.top1 == wilson_interval(1, 5)
    assert found.top5 == wilson_interval(5, 5)


@pytest.mark.parametrize("place", ["model.onnx", "fp32.onnx", "engines/colours/model.onnx"])
def test_the_fp32_model_is_found_by_its_digest(folder, images, place):
    reference = write_fp32(folder / place)
    write_fp32(folder / "another.onnx", end="Neg")
    int8 = write_int8(folder / "int8.onnx", of=reference)
    found = evaluate_model(int8, images).reference
    assert found is not None
    assert found.samefile(reference)


@pytest.mark.parametrize(("stamped", "about"), [(True, "neither beside it"), (False, "does not say which")])
def test_without_the_fp32_model_top1_is_left_with_a_note(folder, images, stamped, about):
    notes: list[str] = []
    orphan = write_int8(folder / "int8.onnx", of=None, stamped=stamped)
    found = evaluate_model(orphan, images, note=notes.append, overrides=PLAIN)
    assert found.scores.top1 == wilson_interval(4, 5)
    assert (found.scores.agreement, found.scores.sqnr_db, found.reference) == (None, None, None)
    assert about in notes[0]
    assert "--reference" in notes[0]


PLAIN = Overrides(mean=PREPROCESSING.mean, std=PREPROCESSING.std)


def test_a_model_from_elsewhere_is_compared_with_the_reference_named(folder, images):
    foreign = write_int8(folder / "int8.onnx", of=None, stamped=False)
    reference = write_fp32(folder / "elsewhere" / "fp32.onnx", info=None)
    found = evaluate_model(foreign, images, reference=str(reference), overrides=PLAIN)
    assert found.model.precision == "int8"
    assert found.scores.agreement == wilson_interval(4, 5)


def test_another_reference_than_the_one_it_was_made_from_is_noted(int8, images, folder):
    notes: list[str] = []
    other = write_fp32(folder / "other.onnx", info=replace(INFO, family="other"))
    assert evaluate_model(int8, images, reference=other, note=notes.append).reference == other
    assert "made from another model than" in notes[0]


def test_both_models_get_the_overridden_preprocessing(int8, images):
    # x / 2: the logits halve, and 0.5 rounds to the even 0: (0 0 0) for all five images but none of FP32's.
    found = evaluate_model(int8, images, overrides=Overrides(std=(2, 2, 2)))
    assert found.scores.reference_top1 == wilson_interval(5, 5)
    assert found.scores.top1 == wilson_interval(1, 5)
    assert found.scores.sqnr_db == 0
    assert found.summary()["preprocessing"]["std"] == (2, 2, 2)


def test_unreadable_images_stop_it_or_are_left_out_with_their_labels(int8, images):
    (images / "a" / "0.png").write_text("no image")
    assert "0.png" in refused(int8, images).problem
    told: list[DeployError] = []
    found = evaluate_model(int8, images, on_skipped=told.append)
    assert found.scores.top1 == wilson_interval(3, 4)
    assert (found.count, found.summary()["skipped"], len(told)) == (4, 1, 1)


def test_images_that_are_all_unreadable_are_no_evaluation(int8, folder):
    broken = folder / "broken"
    broken.mkdir()
    (broken / "x.png").write_text("no image")
    assert "None of the 1 images" in refused(int8, broken, on_skipped=lambda error: None).problem


def test_a_limit_draws_fewer_images_and_a_manifest_as_many_as_it_says(int8, images, folder):
    assert evaluate_model(int8, images, images=3).count == 3
    manifest = folder / "some.toml"
    write_image_manifest(manifest, open_images(images, PREPROCESSING, limit=4))
    assert evaluate_model(int8, manifest).count == 4
    assert evaluate_model(int8, manifest, images=2).count == 2


def test_generated_images_have_no_labels(int8):
    found = evaluate_model(int8, "generated", images=9)
    assert found.count == 9
    assert found.scores.top1 is None
    assert found.scores.agreement is not None


def test_outputs_that_are_equal_are_identical_in_json_which_has_no_infinity(fp32, images):
    found = evaluate_model(fp32, images, reference=fp32)
    assert found.scores.sqnr_db == math.inf
    text = json.dumps(found.summary(), allow_nan=False)
    assert json.loads(text)["sqnr_db"] is None
    assert json.loads(text)["identical"] is True


def test_progress_counts_images_to_the_last(int8, images):
    seen: list[tuple[str, float, float | None]] = []
    evaluate_model(int8, images, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("evaluating", 5, 5)


# Five images go in as four and one: the one is filled up to three, and what filled it is not counted.
@pytest.mark.parametrize("batch", [BatchRange(min=3, opt=3, max=4), BatchRange(min=64, opt=64, max=64)])
def test_an_engine_gets_batches_of_the_sizes_it_takes(fp32, images, folder, batch):
    built = deploykit.build_engine(onnx=fp32, gpu="cpu", batches=[batch], output=folder / "fp32.cpu.onnx")
    with Engine.load(built.path) as engine, refuses("batch-out-of-range"):
        engine(np.zeros((1, 3, SIDE_PX, SIDE_PX), np.float32))
    found = evaluate_model(built.path, images)
    assert found.scores.top1 == wilson_interval(5, 5)
    assert found.scores.agreement == wilson_interval(5, 5)
    assert found.count == 5


@pytest.fixture
def photographs(validation, folder):
    np.savez(folder / "val.npz", images=validation.pixels[:16], labels=validation.labels[:16])
    return folder / "val.npz"


class Reader:
    """What ONNX Runtime's quantizer draws its calibration images from."""

    def __init__(self, inputs):
        self.batches = iter([{"input": inputs}])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module")
def quantized_elsewhere(trained, validation, tmp_path_factory):
    """The trained model with Q/DQ put in by ONNX Runtime's own quantizer, which leaves its metadata alone."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    path = tmp_path_factory.mktemp("elsewhere") / "int8.onnx"
    quantize_static(
        trained.path,
        path,
        Reader(trained.info.preprocessing.normalize(validation.pixels[::250])),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
    return path


@pytest.mark.parametrize(("asked", "fused"), [(None, False), ("tensorrt", False), ("runtime", True)])
def test_an_int8_onnx_model_is_computed_as_tensorrt_would_unless_asked_otherwise(
    trained, quantized_elsewhere, photographs, asked, fused
):
    inputs = trained.info.preprocessing.normalize(np.load(photographs)["images"])
    logits, reference = (
        cpu_session(path, fuse_int8=fused).run(None, {"input": inputs})[0]
        for path in (quantized_elsewhere, trained.path)
    )
    found = evaluate_model(quantized_elsewhere, photographs, reference=trained.path, arithmetic=asked)
    assert found.model.precision == "int8"
    assert found.model.arithmetic == ("runtime" if fused else "tensorrt")
    assert found.scores.sqnr_db == pytest.approx(sqnr_db(logits, reference), abs=1e-3)


def test_an_int8_engine_is_evaluated_as_it_runs_and_no_other_way(trained, photographs, folder):
    built = deploykit.build_engine(
        onnx=trained.path,
        gpu="cpu",
        precision="int8",
        int8=deploykit.Int8Options(data=photographs),
        output=folder / "int8.cpu.onnx",
    )
    inputs = trained.info.preprocessing.normalize(np.load(photographs)["images"])
    (reference,) = cpu_session(trained.path).run(None, {"input": inputs})
    with Engine.load(built.path) as engine:
        logits = engine(inputs)
    found = evaluate_model(built.path, photographs, reference=trained.path)
    assert found.model.arithmetic == "runtime"
    assert found.scores.sqnr_db == pytest.approx(sqnr_db(logits, reference), abs=1e-3)
    error = refused(built.path, photographs, reference=trained.path, arithmetic="tensorrt")
    assert "ONNX Runtime's own INT8 arithmetic" in error.problem


def test_top1_of_the_trained_model_is_what_timms_own_logits_give(trained, shared, validation, folder):
    expected = np.load(shared / "expected_logits.npz")
    (logits,) = (expected[name] for name in expected.files if expected[name].shape == (64, 10))
    np.savez(folder / "val.npz", images=validation.pixels[:64], labels=validation.labels[:64])
    found = evaluate_model(trained.path, folder / "val.npz")
    right = int((logits.argmax(axis=1) == validation.labels[:64]).sum())
    assert found.scores.top1 == wilson_interval(right, 64)
    assert right == 44


@pytest.mark.parametrize(
    ("labels", "noted"),
    [
        (LABELS * 8, False),
        ([(label + 1) % 3 for label in LABELS * 8], True),  # numbered otherwise than the outputs
        ([1, 1, 1, 1, 1], False),  # 3 of 5 right: too few to say
    ],
)
def test_top1_no_better_than_guessing_is_noted(fp32, folder, labels, noted):
    notes: list[str] = []
    pixels = np.broadcast_to(np.array(COLOURS, np.uint8)[:, None, None], (5, SIDE_PX, SIDE_PX, 3))
    np.savez(folder / "many.npz", images=np.tile(pixels, (len(labels) // 5, 1, 1, 1)), labels=labels)
    evaluate_model(fp32, folder / "many.npz", note=notes.append)
    assert ["can't be told from guessing" in note for note in notes] == [True] * noted


def test_random_weights_are_noted(random_b0, folder):
    notes: list[str] = []
    pixels = np.zeros((30, 64, 64, 3), np.uint8)
    np.savez(folder / "many.npz", images=pixels, labels=np.arange(30))
    evaluate_model(random_b0.path, folder / "many.npz", note=notes.append)
    assert "Random weights" in notes[0]


def test_labels_without_images_classes_are_held_against_the_outputs(fp32, folder):
    pixels = np.zeros((2, SIDE_PX, SIDE_PX, 3), np.uint8)
    np.savez(folder / "two.npz", images=pixels, labels=[0, 3])
    error = refused(fp32, folder / "two.npz")
    assert "has labels up to 3" in error.problem
    assert "has 3 classes" in error.problem


def test_another_number_of_class_folders_than_outputs_is_refused(fp32, folder):
    error = refused(fp32, write_images(folder / "images", classes=("a", "b", "c", "d")))
    assert "has 4 classes" in error.problem
    assert "one folder for each" in error.fix


def test_nothing_to_measure_is_refused(fp32, folder):
    flat = write_images(folder / "flat", labelled=False)
    assert "is an FP32 model itself" in refused(fp32, flat).problem
    orphan = write_int8(folder / "orphan.onnx", of=None)
    assert "neither beside it" in refused(orphan, flat).problem


@pytest.mark.parametrize("end", ["Log", "Reciprocal"])
def test_logits_that_are_not_finite_are_refused_naming_model_and_image(folder, images, end):
    error = refused(write_fp32(folder / "bad.onnx", end=end), images)  # log 0 and 1 / 0
    assert "bad.onnx gives NaN or infinite logits for image 0 of" in error.problem


def test_a_reference_that_is_none_is_refused(int8, images, folder):
    assert "is INT8" in refused(int8, images, reference=int8).problem
    assert "no model or engine" in refused(int8, images, reference=folder / "none.onnx").problem
    other = write_fp32(folder / "six.onnx", repeat=2)
    assert "six.onnx has 6 classes" in refused(int8, images, reference=other).problem


def test_a_reference_of_another_side_is_refused(int8, images, random_b0):
    error = refused(int8, images, reference=random_b0.path)
    assert "64 px" in error.problem
    assert "8 px" in error.problem


def test_an_engine_for_a_gpu_that_is_not_here_points_to_the_cpu(random_b0, images, folder):
    built = deploykit.build_engine(
        onnx=random_b0.path, gpu="T4", precision="fp16", output=folder / "x.engine"
    )
    error = refused(built.path, images)
    assert "is for T4 (SM75); this machine has" in error.problem
    assert "FP16 ONNX model" in error.fix


def test_an_altered_artifact_is_refused(fp32, images, folder):
    built = deploykit.build_engine(onnx=fp32, gpu="cpu", output=folder / "fp32.cpu.onnx")
    built.path.write_bytes(built.path.read_bytes() + b"\0\0")
    assert "altered or cut short" in refused(built.path, images).problem


def test_a_model_with_two_outputs_is_refused(folder, images):
    model = onnx.load(write_fp32(folder / "two.onnx"))
    second = onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, ["batch", 3])
    model.graph.output.append(second)
    onnx.save(model, folder / "two.onnx")
    assert "answers with logits and flat" in refused(folder / "two.onnx", images).problem


def test_a_model_that_gives_maps_is_refused(folder, images):
    model = onnx.load(write_fp32(folder / "maps.onnx"))
    model.graph.output.pop()
    maps = onnx.helper.make_tensor_value_info("means", onnx.TensorProto.FLOAT, ["batch", 3, 1, 1])
    model.graph.output.append(maps)
    onnx.save(model, folder / "maps.onnx")
    assert "gives (5, 3, 1, 1) for 5 images" in refused(folder / "maps.onnx", images).problem


def test_a_model_that_cannot_take_a_batch_is_refused_with_the_reason(folder, images):
    model = onnx.load(write_fp32(folder / "one.onnx"))
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    flatten.input.append("one")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3]), "one"))
    onnx.save(model, folder / "one.onnx")
    error = refused(folder / "one.onnx", images)
    assert "can't run" in error.problem
    assert "on 5 images" in error.problem
    assert "dynamic batch" in error.fix
