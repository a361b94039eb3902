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
from deploykit.stats.accuracy_metrics import sqnr_db
from deploykit.stats.proportion import tango_interval, wilson_interval
from deploykit.util.errors import DeployError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, where engines/ is searched for."""
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


def refused(code, *arguments, **options) -> DeployError:
    with refuses(code) as caught:
        evaluate_model(*arguments, **options)
    return caught.value


def test_accuracy_agreement_and_sqnr_match_hand_calculations(int8, fp32, images):
    result = evaluate_model(int8, images)
    assert result.reference == fp32
    assert result.count == 5
    assert result.scores.top1 == wilson_interval(4, 5)
    assert result.scores.reference_top1 == wilson_interval(5, 5)
    assert result.scores.top1_drop == tango_interval(1, 0, 5)
    assert result.scores.agreement == wilson_interval(4, 5)
    assert result.scores.sqnr_db == pytest.approx(SQNR_DB, abs=1e-4)


def test_without_labels_only_agreement_and_sqnr_are_reported(int8, folder):
    result = evaluate_model(int8, write_images(folder / "flat", labelled=False)).scores
    assert (result.top1, result.top5, result.reference_top1, result.top1_drop) == (None, None, None, None)
    assert result.agreement == wilson_interval(4, 5)
    assert result.sqnr_db == pytest.approx(SQNR_DB, abs=1e-4)


def test_an_fp32_model_is_compared_only_with_labels_without_a_note(fp32, images):
    notes: list[str] = []
    result = evaluate_model(fp32, images, note=notes.append)
    assert result.scores.top1 == wilson_interval(5, 5)
    assert (result.reference, result.scores.agreement, result.scores.sqnr_db) == (None, None, None)
    assert notes == []


def test_top5_is_omitted_for_five_classes_or_fewer(int8, images, folder):
    assert evaluate_model(int8, images).scores.top5 is None
    six = write_fp32(folder / "six.onnx", repeat=2)
    archive = folder / "six.npz"
    # Red is class 0, and class 3 again; the five others never all come before it, green's 1 once does for 4.
    pixels = np.broadcast_to(np.array(COLOURS, np.uint8)[:, None, None], (5, SIDE_PX, SIDE_PX, 3))
    np.savez(archive, images=pixels, labels=[0, 3, 5, 4, 2], classes=list("abcdef"))
    # By hand, places of the labels: 1st, 5th of (g g' r b r' b') as r' comes after r and b, 2nd, 2nd, 5th.
    result = evaluate_model(six, archive).scores
    assert result.top1 == wilson_interval(1, 5)
    assert result.top5 == wilson_interval(5, 5)


@pytest.mark.parametrize("place", ["model.onnx", "fp32.onnx", "engines/colours/model.onnx"])
def test_the_fp32_model_is_found_by_its_digest(folder, images, place):
    reference = write_fp32(folder / place)
    write_fp32(folder / "another.onnx", end="Neg")
    int8 = write_int8(folder / "int8.onnx", of=reference)
    result = evaluate_model(int8, images).reference
    assert result is not None
    assert result.samefile(reference)


@pytest.mark.parametrize(("stamped", "about"), [(True, "SHA-256"), (False, "does not record")])
def test_without_its_fp32_model_only_top1_is_reported_with_a_note(folder, images, stamped, about):
    notes: list[str] = []
    orphan = write_int8(folder / "int8.onnx", of=None, stamped=stamped)
    result = evaluate_model(orphan, images, note=notes.append, overrides=PLAIN)
    assert result.scores.top1 == wilson_interval(4, 5)
    assert (result.scores.agreement, result.scores.sqnr_db, result.reference) == (None, None, None)
    assert about in notes[0]
    assert "--reference" in notes[0]


PLAIN = Overrides(mean=PREPROCESSING.mean, std=PREPROCESSING.std)


def test_a_model_from_another_tool_is_compared_with_the_named_reference(folder, images):
    foreign = write_int8(folder / "int8.onnx", of=None, stamped=False)
    reference = write_fp32(folder / "elsewhere" / "fp32.onnx", info=None)
    result = evaluate_model(foreign, images, reference=str(reference), overrides=PLAIN)
    assert result.model.precision == "int8"
    assert result.scores.agreement == wilson_interval(4, 5)


def test_a_reference_that_the_model_was_not_made_from_gets_a_note(int8, images, folder):
    notes: list[str] = []
    other = write_fp32(folder / "other.onnx", info=replace(INFO, family="other"))
    assert evaluate_model(int8, images, reference=other, note=notes.append).reference == other
    assert "other.onnx" in notes[0]


def test_both_models_get_the_overridden_preprocessing(int8, images):
    # x / 2: the logits halve, and 0.5 rounds to the even 0: (0 0 0) for all five images but none of FP32's.
    result = evaluate_model(int8, images, overrides=Overrides(std=(2, 2, 2)))
    assert result.scores.reference_top1 == wilson_interval(5, 5)
    assert result.scores.top1 == wilson_interval(1, 5)
    assert result.scores.sqnr_db == 0
    assert result.summary()["preprocessing"]["std"] == (2, 2, 2)


def test_unreadable_images_are_an_error_or_skipped_with_their_labels(int8, images):
    (images / "a" / "0.png").write_text("no image")
    assert "0.png" in refused("image-unreadable", int8, images).problem
    skipped: list[DeployError] = []
    result = evaluate_model(int8, images, on_skipped=skipped.append)
    assert result.scores.top1 == wilson_interval(3, 4)
    assert (result.count, result.summary()["skipped"], len(skipped)) == (4, 1, 1)


def test_an_evaluation_needs_at_least_one_readable_image(int8, folder):
    broken = folder / "broken"
    broken.mkdir()
    (broken / "x.png").write_text("no image")
    refused("images-unreadable", int8, broken, on_skipped=lambda error: None)


def test_the_limit_and_the_manifest_set_the_number_of_images(int8, images, folder):
    assert evaluate_model(int8, images, images=3).count == 3
    manifest = folder / "some.toml"
    write_image_manifest(manifest, open_images(images, PREPROCESSING, limit=4))
    assert evaluate_model(int8, manifest).count == 4
    assert evaluate_model(int8, manifest, images=2).count == 2


def test_generated_images_have_no_labels(int8):
    result = evaluate_model(int8, "generated", images=9)
    assert result.count == 9
    assert result.scores.top1 is None
    assert result.scores.agreement is not None


def test_json_has_identical_instead_of_an_infinite_sqnr(fp32, images):
    result = evaluate_model(fp32, images, reference=fp32)
    assert result.scores.sqnr_db == math.inf
    text = json.dumps(result.summary(), allow_nan=False)
    assert json.loads(text)["sqnr_db"] is None
    assert json.loads(text)["identical"] is True


def test_progress_counts_every_image(int8, images):
    seen: list[tuple[str, float, float | None]] = []
    evaluate_model(int8, images, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("evaluating", 5, 5)


# Five images run as batches of four and one. The last is padded to three, and the padding is not counted.
@pytest.mark.parametrize("batch", [BatchRange(min=3, opt=3, max=4), BatchRange(min=64, opt=64, max=64)])
def test_an_engine_gets_batch_sizes_that_it_accepts(fp32, images, folder, batch):
    built = deploykit.build_engine(onnx=fp32, gpu="cpu", batches=[batch], output=folder / "fp32.cpu.onnx")
    with Engine.load(built.path) as engine, refuses("batch-out-of-range"):
        engine(np.zeros((1, 3, SIDE_PX, SIDE_PX), np.float32))
    result = evaluate_model(built.path, images)
    assert result.scores.top1 == wilson_interval(5, 5)
    assert result.scores.agreement == wilson_interval(5, 5)
    assert result.count == 5


@pytest.fixture
def photographs(validation, folder):
    np.savez(folder / "val.npz", images=validation.pixels[:16], labels=validation.labels[:16])
    return folder / "val.npz"


class Reader:
    """The calibration data reader of ONNX Runtime's quantizer."""

    def __init__(self, inputs):
        self.batches = iter([{"input": inputs}])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module")
def quantized_elsewhere(trained, validation, tmp_path_factory):
    """The trained model quantized by ONNX Runtime's quantizer, which does not update the metadata."""
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
def test_an_int8_onnx_model_uses_tensorrt_arithmetic_by_default(
    trained, quantized_elsewhere, photographs, asked, fused
):
    inputs = trained.info.preprocessing.normalize(np.load(photographs)["images"])
    logits, reference = (
        cpu_session(path, fuse_int8=fused).run(None, {"input": inputs})[0]
        for path in (quantized_elsewhere, trained.path)
    )
    result = evaluate_model(quantized_elsewhere, photographs, reference=trained.path, arithmetic=asked)
    assert result.model.precision == "int8"
    assert result.model.arithmetic == ("runtime" if fused else "tensorrt")
    assert result.scores.sqnr_db == pytest.approx(sqnr_db(logits, reference), abs=1e-3)


def test_an_int8_engine_is_evaluated_only_with_its_own_arithmetic(trained, photographs, folder):
    ranges, _ = deploykit.calibrate_to_file(
        photographs, onnx=trained.path, method="max", output=folder / "r.json"
    )
    built = deploykit.build_engine(
        onnx=trained.path,
        gpu="cpu",
        precision="int8",
        int8=deploykit.Int8Options(ranges=ranges, float_budget=0),
        output=folder / "int8.cpu.onnx",
    )
    inputs = trained.info.preprocessing.normalize(np.load(photographs)["images"])
    (reference,) = cpu_session(trained.path).run(None, {"input": inputs})
    with Engine.load(built.path) as engine:
        logits = engine(inputs)
    result = evaluate_model(built.path, photographs, reference=trained.path)
    assert result.model.arithmetic == "runtime"
    assert result.scores.sqnr_db == pytest.approx(sqnr_db(logits, reference), abs=1e-3)
    refused("engine-not-portable", built.path, photographs, reference=trained.path, arithmetic="tensorrt")


def test_top1_of_the_trained_model_matches_timms_logits(trained, shared, validation, folder):
    expected = np.load(shared / "expected_logits.npz")
    (logits,) = (expected[name] for name in expected.files if expected[name].shape == (64, 10))
    np.savez(folder / "val.npz", images=validation.pixels[:64], labels=validation.labels[:64])
    result = evaluate_model(trained.path, folder / "val.npz")
    right = int((logits.argmax(axis=1) == validation.labels[:64]).sum())
    assert result.scores.top1 == wilson_interval(right, 64)
    assert right == 44


@pytest.mark.parametrize(
    ("labels", "noted"),
    [
        (LABELS * 8, False),
        ([(label + 1) % 3 for label in LABELS * 8], True),  # in another class order than the outputs
        ([1, 1, 1, 1, 1], False),  # 3 of 5 correct: too few images to tell
    ],
)
def test_top1_no_better_than_chance_gets_a_note(fp32, folder, labels, noted):
    notes: list[str] = []
    pixels = np.broadcast_to(np.array(COLOURS, np.uint8)[:, None, None], (5, SIDE_PX, SIDE_PX, 3))
    np.savez(folder / "many.npz", images=np.tile(pixels, (len(labels) // 5, 1, 1, 1)), labels=labels)
    evaluate_model(fp32, folder / "many.npz", note=notes.append)
    assert ["no better than chance" in note for note in notes] == [True] * noted


def test_random_weights_get_a_note(random_b0, folder):
    notes: list[str] = []
    pixels = np.zeros((30, 64, 64, 3), np.uint8)
    np.savez(folder / "many.npz", images=pixels, labels=np.arange(30))
    evaluate_model(random_b0.path, folder / "many.npz", note=notes.append)
    assert "weights are random" in notes[0]


def test_labels_above_the_number_of_outputs_are_refused(fp32, folder):
    pixels = np.zeros((2, SIDE_PX, SIDE_PX, 3), np.uint8)
    np.savez(folder / "two.npz", images=pixels, labels=[0, 3])
    error = refused("class-count-mismatch", fp32, folder / "two.npz")
    assert "has labels up to 3" in error.problem
    assert "has 3 classes" in error.problem


def test_class_folders_must_match_the_outputs_in_number(fp32, folder):
    error = refused(
        "class-count-mismatch", fp32, write_images(folder / "images", classes=("a", "b", "c", "d"))
    )
    assert "has 4 classes" in error.problem


def test_images_without_labels_need_a_reference(fp32, folder):
    flat = write_images(folder / "flat", labelled=False)
    assert "is an FP32 model itself" in refused("images-unlabelled", fp32, flat).problem
    orphan = write_int8(folder / "orphan.onnx", of=None)
    assert "SHA-256" in refused("images-unlabelled", orphan, flat).problem


@pytest.mark.parametrize("end", ["Log", "Reciprocal"])
def test_an_error_about_non_finite_logits_names_model_and_image(folder, images, end):
    error = refused("outputs-not-finite", write_fp32(folder / "bad.onnx", end=end), images)  # log 0 and 1 / 0
    assert "bad.onnx" in error.problem
    assert "image 0 of" in error.problem


def test_an_unsuitable_reference_is_refused(int8, images, folder):
    assert "INT8" in refused("reference-not-fp32", int8, images, reference=int8).problem
    refused("model-not-found", int8, images, reference=folder / "none.onnx")
    other = write_fp32(folder / "six.onnx", repeat=2)
    assert "six.onnx has 6 classes" in refused("class-count-mismatch", int8, images, reference=other).problem


def test_a_reference_with_another_input_size_is_refused(int8, images, random_b0):
    error = refused("side-mismatch", int8, images, reference=random_b0.path)
    assert "64 px" in error.problem
    assert "8 px" in error.problem


def test_the_fix_for_an_engine_of_a_missing_gpu_suggests_the_cpu(fp32, images, folder):
    built = deploykit.build_engine(onnx=fp32, gpu="T4", precision="fp16", output=folder / "x.engine")
    with pytest.raises(DeployError) as caught:
        evaluate_model(built.path, images)
    error = caught.value
    assert "T4 (SM75)" in error.problem
    assert "FP16 ONNX model" in error.fix


def test_an_altered_artifact_is_refused(fp32, images, folder):
    built = deploykit.build_engine(onnx=fp32, gpu="cpu", output=folder / "fp32.cpu.onnx")
    built.path.write_bytes(built.path.read_bytes() + b"\0\0")
    refused("engine-damaged", built.path, images)


def test_a_model_with_two_outputs_is_refused(folder, images):
    model = onnx.load(write_fp32(folder / "two.onnx"))
    second = onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, ["batch", 3])
    model.graph.output.append(second)
    onnx.save(model, folder / "two.onnx")
    assert "flat" in refused("not-a-classifier", folder / "two.onnx", images).problem


def test_a_model_that_returns_feature_maps_is_refused(folder, images):
    model = onnx.load(write_fp32(folder / "maps.onnx"))
    model.graph.output.pop()
    maps = onnx.helper.make_tensor_value_info("means", onnx.TensorProto.FLOAT, ["batch", 3, 1, 1])
    model.graph.output.append(maps)
    onnx.save(model, folder / "maps.onnx")
    assert "(5, 3, 1, 1)" in refused("not-a-classifier", folder / "maps.onnx", images).problem


def test_a_model_with_a_fixed_batch_is_refused_with_the_reason(folder, images):
    model = onnx.load(write_fp32(folder / "one.onnx"))
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    flatten.input.append("one")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3]), "one"))
    onnx.save(model, folder / "one.onnx")
    error = refused("onnxruntime-run-failed", folder / "one.onnx", images)
    assert "5 images" in error.problem
    assert "dynamic batch" in error.fix
