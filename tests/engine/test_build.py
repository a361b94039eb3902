import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from folders import files_in
from onnx import helper
from refusals import refuses

from deploykit.engine.build import BuiltEngine, build_engine
from deploykit.engine.manifest import manifest_path, read_engine_manifest
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.onnx_tools.model_io import read_model
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration_files import calibrate_to_file
from deploykit.quantize.int8_options import Int8Options
from deploykit.quantize.placement import place_int8
from deploykit.quantize.summary import Int8Summary
from deploykit.runtime import Engine
from deploykit.stats.accuracy_metrics import agreement
from deploykit.util.atomic_files import file_sha256


@pytest.fixture
def model(random_b0, workplace) -> Path:
    """B0 with random weights."""
    return Path(shutil.copy(random_b0.path, workplace / "model.onnx"))


@pytest.fixture
def trained_model(trained, workplace) -> Path:
    return Path(shutil.copy(trained.path, workplace / "model.onnx"))


@pytest.mark.parametrize(
    ("precision", "gpu", "name"),
    [
        (None, "cpu", "model.fp32.cpu.onnx"),
        ("int8", "cpu", "model.int8.cpu.onnx"),
        (None, "T4", "model.fp16.sm75.engine"),
        ("int8", "T4", "model.int8.sm75.engine"),
        ("fp32", "RTX 4090", "model.fp32.sm89.engine"),
    ],
)
def test_an_engine_is_written_beside_its_model_with_its_manifest(model, precision, gpu, name):
    batch = BatchRange(min=1, opt=2, max=4)
    built = build_engine(onnx=model, precision=precision, gpu=gpu, batches=[batch])
    assert built.path == model.with_name(name)
    assert files_in(model.parent) == {"model.onnx", name, f"{name}.json"}
    manifest = read_engine_manifest(built.path)
    assert manifest == built.manifest
    assert manifest.precision == manifest.model.precision == name.split(".")[1]
    assert manifest.engine_sha256 == file_sha256(built.path)
    assert manifest.model.onnx_sha256 == file_sha256(model)
    assert (manifest.model.ranges_sha256 is not None) == (precision == "int8")
    assert (manifest.model.family, manifest.model.phi, manifest.model.weights) == (
        "efficientnet",
        0,
        "random",
    )
    assert manifest.model.preprocessing.side_px == 64
    assert manifest.batches == (batch,)
    assert (manifest.input.name, manifest.input.shape) == ("input", (3, 64, 64))
    assert (manifest.output.name, manifest.output.shape) == ("logits", (1000,))
    assert manifest.input.dtype == manifest.output.dtype == "float32"
    # 33 of B0's convolutions and linear layers: Table 1 of arXiv:1905.11946.
    assert manifest.audit.product_count("int8") == (33 if precision == "int8" else 0)


def test_without_a_gpu_named_or_present_the_engine_is_portable(model, monkeypatch):
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: None)
    notes = []
    built = build_engine(onnx=model, note=notes.append)
    assert built.path.name == "model.fp16.portable.engine"
    assert (built.manifest.target.name, built.manifest.target.sm) == ("portable", None)
    assert any("portable engine" in note for note in notes)


def test_a_cpu_artifact_records_its_origin_in_its_metadata(model):
    built = build_engine(onnx=model, precision="int8", gpu="cpu")
    metadata = {entry.key: entry.value for entry in onnx.load(built.path).metadata_props}
    assert metadata["deploykit.precision"] == "int8"
    assert metadata["deploykit.onnx_sha256"] == file_sha256(model)
    assert metadata["deploykit.ranges_sha256"] == built.manifest.model.ranges_sha256


def test_the_same_build_twice_gives_the_same_artifact(model):
    digests = {build_engine(onnx=model, precision="int8", gpu="cpu").manifest.engine_sha256 for _ in range(2)}
    assert len(digests) == 1


def test_the_model_is_found_by_its_phi(random_b0, workplace):
    home = workplace / "engines" / "efficientnet-phi0"
    home.mkdir(parents=True)
    shutil.copy(random_b0.path, home / "model.onnx")
    built = build_engine(phi=0, gpu="cpu")
    assert built.path == Path("engines/efficientnet-phi0/model.fp32.cpu.onnx")


def test_an_engine_is_written_to_the_given_output(model, workplace):
    output = workplace / "new" / "folder" / "my.onnx"
    assert build_engine(onnx=model, gpu="cpu", output=output).path == output
    assert output.is_file()
    assert manifest_path(output).is_file()


def test_int8_of_trained_weights_without_data_is_refused_and_nothing_written(trained_model):
    with refuses("calibration-data-missing") as caught:
        build_engine(onnx=trained_model, precision="int8", gpu="cpu")
    assert "--data DIR" in caught.value.fix
    assert files_in(trained_model.parent) == {"model.onnx"}


@dataclass(frozen=True, kw_only=True)
class Told:
    """An engine, and what its build said."""

    built: BuiltEngine
    notes: list[str]
    progress: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def built_on_data(shared, trained, tmp_path_factory) -> Told:
    """The trained model in INT8 for the CPU, calibrated on 32 images."""
    folder = tmp_path_factory.mktemp("data")
    images = np.load(shared / "cifar10_calib.npz")["images"][:32]
    np.savez(folder / "few.npz", images=images)
    notes, progress = [], []
    built = build_engine(
        onnx=trained.path,
        precision="int8",
        gpu="cpu",
        int8=Int8Options(data=folder / "few.npz"),
        output=folder / "model.onnx",
        note=notes.append,
        progress=lambda *each: progress.append(each),
    )
    return Told(built=built, notes=notes, progress=progress)


def test_int8_is_calibrated_on_the_data_given(built_on_data, trained, validation):
    # A quarter of the images is held out, to choose the method by.
    assert ("calibrating", 24, 24) in built_on_data.progress
    _, done, total = [each for each in built_on_data.progress if each[0] == "choosing ranges"][-1]
    assert done == total
    images = trained.info.preprocessing.normalize(validation.pixels[:64])
    (reference,) = cpu_session(trained.path).run(None, {"input": images})
    with Engine.load(built_on_data.built.path) as engine:
        assert agreement(engine(images), reference) >= 0.9


def test_the_float_fallback_is_noted_and_not_counted_as_planned(built_on_data):
    manifest = built_on_data.built.manifest
    left_out = manifest.int8.left_out
    assert 0 < len(left_out) < 33
    assert manifest.audit.product_count("int8") == 33 - len(left_out)
    (sentence,) = (note for note in built_on_data.notes if note.startswith("Left in float for accuracy: "))
    assert all(name in sentence for name in left_out)
    # Pointwise convolutions and classifier are 86 % of the work at 64 px, of which 10 may go.
    assert 0.76 <= manifest.int8.share < 0.86
    (placed,) = (note for note in built_on_data.notes if note.startswith("INT8 policy pointwise: "))
    assert f" {33 - len(left_out)} convolutions and linear layers" in placed


def test_random_weights_are_calibrated_on_generated_images_with_a_note(model):
    notes = []
    build_engine(onnx=model, precision="int8", gpu="cpu", note=notes.append)
    assert any("4 generated images" in note for note in notes)


def calibrated(name: str, model: Path, *, folder: Path = Path("calibration")) -> Path:
    """A ranges file of the model, of two generated images."""
    path, _ = calibrate_to_file("generated", onnx=model, limit=2, method="percentile", output=folder / name)
    return path


def test_ranges_of_the_model_are_found_in_calibration_under_any_name(trained_model, workplace):
    calibrated("odd.ranges.json", trained_model)
    notes = []
    built = build_engine(onnx=trained_model, precision="int8", gpu="cpu", note=notes.append)
    assert built.manifest.model.ranges_sha256 == file_sha256(workplace / "calibration" / "odd.ranges.json")
    (credit,) = (note for note in notes if note.startswith("Ranges: "))
    assert credit.startswith("Ranges: calibration/odd.ranges.json, from 2 images of generated (")


def test_ranges_of_another_model_in_calibration_are_ignored(trained_model, random_b0):
    calibrated("other.ranges.json", random_b0.path)
    with refuses("calibration-data-missing"):
        build_engine(onnx=trained_model, precision="int8", gpu="cpu")


def test_a_damaged_file_in_calibration_does_not_hide_the_others(trained_model, workplace):
    calibrated("whole.ranges.json", trained_model)
    (workplace / "calibration" / "cut.ranges.json").write_text('{"format": 1, "onnx')
    assert build_engine(onnx=trained_model, precision="int8", gpu="cpu").path.is_file()


def test_ranges_given_by_name_are_used(trained_model, workplace):
    given = calibrated("mine.json", trained_model, folder=workplace)
    built = build_engine(onnx=trained_model, precision="int8", gpu="cpu", int8=Int8Options(ranges=given))
    assert built.manifest.model.ranges_sha256 == Ranges.load(given).sha256 == file_sha256(given)


def test_ranges_have_the_digest_of_the_file_they_are_written_to(random_b0, tmp_path):
    """The method that `auto` chose, and those it tried, included."""
    path, ranges = calibrate_to_file("generated", onnx=random_b0.path, limit=1, output=tmp_path / "auto.json")
    assert ranges.choice is not None
    assert ranges.sha256 == Ranges.load(path).sha256 == file_sha256(path)


def test_ranges_of_another_model_given_by_name_are_refused(trained_model, random_b0, workplace):
    given = calibrated("other.json", random_b0.path, folder=workplace)
    with refuses("ranges-wrong-model"):
        build_engine(onnx=trained_model, precision="int8", gpu="cpu", int8=Int8Options(ranges=given))
    assert files_in(workplace) == {"model.onnx", "other.json"}


def test_an_int8_model_is_refused(model):
    int8 = build_engine(onnx=model, precision="int8", gpu="cpu").path
    with refuses("model-not-fp32") as caught:
        build_engine(onnx=int8, gpu="cpu")
    assert "FP32 model" in caught.value.fix


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("file/engine.onnx", "output-unwritable"),
        ("file/deeper/engine.onnx", "output-unwritable"),
        ("folder", "output-not-a-file"),
    ],
)
def test_an_unwritable_output_is_refused_before_the_work(model, workplace, output, code):
    (workplace / "file").write_text("in the way")
    (workplace / "folder").mkdir()
    stages: list[str] = []
    with refuses(code):
        build_engine(
            onnx=model, gpu="cpu", output=workplace / output, progress=lambda stage, *_: stages.append(stage)
        )
    assert stages == []
    assert files_in(workplace) == {"model.onnx", "file"}


def test_the_model_itself_is_not_overwritten(model):
    before = file_sha256(model)
    with refuses("output-is-input"):
        build_engine(onnx=model, gpu="cpu", output=model)
    assert file_sha256(model) == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"gpu": "T4", "precision": "fp32"}, "precision-unsupported"),
        ({"gpu": "cpu", "precision": "fp16"}, "precision-unsupported"),
        ({"gpu": "V100"}, "compiler-target-mismatch"),
        (
            {"gpu": "cpu", "precision": "int8", "int8": Int8Options(data="photos")},
            "image-unreadable",
        ),
        (
            {"gpu": "cpu", "precision": "int8", "int8": Int8Options(data="nowhere")},
            "file-not-found",
        ),
        (
            {"gpu": "cpu", "precision": "int8", "int8": Int8Options(ranges=Path("none.json"))},
            "ranges-not-found",
        ),
        (
            {"gpu": "cpu", "precision": "int8", "int8": Int8Options(exclude=("blocks.9.*",))},
            "unknown-layer",
        ),
        (
            {"gpu": "cpu", "precision": "int8", "int8": Int8Options(exclude=("*",))},
            "nothing-to-quantize",
        ),
        (
            {"gpu": "T4", "precision": "int8", "int8": Int8Options(policy="bandwidth")},
            "precision-unsupported",
        ),
        (
            {"gpu": "cpu", "precision": "int8", "int8": Int8Options(policy="all-conv")},
            "precision-unsupported",
        ),
        (
            {"gpu": "T4", "precision": "int8", "int8": Int8Options(include=("blocks.0.0.conv_dw",))},
            "precision-unsupported",
        ),
        ({"gpu": "cpu", "int8": Int8Options(policy="all-conv")}, "option-not-applicable"),
        (
            {"gpu": "T4", "precision": "fp16", "int8": Int8Options(float_budget=0)},
            "option-not-applicable",
        ),
    ],
)
def test_a_build_that_fails_leaves_nothing_behind(model, workplace, options, code):
    (workplace / "photos").mkdir()
    (workplace / "photos" / "broken.png").write_bytes(b"no image")
    with refuses(code):
        build_engine(onnx=model, **options)
    assert files_in(workplace) == {"model.onnx", "photos/broken.png"}


def test_an_engine_with_less_int8_than_planned_is_refused(model, monkeypatch):
    """Without the respelling TensorRT-RTX 1.7 makes the classifier alone INT8 on SM75."""
    monkeypatch.setattr("deploykit.engine.prepare_graph.lower_for_rtx", lambda graph, *, sm: graph)
    with refuses("engine-precision-mismatch"):
        build_engine(onnx=model, gpu="T4", precision="int8")


def test_a_failed_build_keeps_the_engine_that_was_there(model):
    built = build_engine(onnx=model, gpu="T4", output=model.with_name("my.engine"))
    with refuses("precision-unsupported"):
        build_engine(onnx=model, gpu="T4", precision="fp32", output=built.path)
    assert read_engine_manifest(built.path) == built.manifest


def test_a_model_beyond_the_range_of_fp16_is_refused_for_a_gpu(model):
    broken = read_model(model)
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name == "classifier.weight")
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[0] = 1e6
    weight.raw_data = values.tobytes()
    model.write_bytes(broken.SerializeToString())
    with refuses("fp16-overflow") as caught:
        build_engine(onnx=model, gpu="RTX 4090")
    assert "--fp32" in caught.value.fix


@pytest.fixture
def foreign_model(model) -> Path:
    """One without our metadata, and without names of nodes."""
    foreign = read_model(model)
    del foreign.metadata_props[:]
    for node in foreign.graph.node:
        node.name = ""
    helper.set_model_props(foreign, {"author": "somebody"})
    model.write_bytes(foreign.SerializeToString())
    return model


def test_a_model_from_elsewhere_is_built_too(foreign_model):
    calibrated("foreign.ranges.json", foreign_model)
    built = build_engine(onnx=foreign_model, precision="int8", gpu="T4")
    assert (built.manifest.model.family, built.manifest.model.phi) == ("unknown", None)
    assert built.manifest.audit.product_count("int8") == 33


def test_the_weights_of_a_foreign_model_are_recorded_as_unknown(foreign_model):
    assert build_engine(onnx=foreign_model, gpu="cpu").manifest.model.weights == "unknown"


@pytest.mark.parametrize(
    ("options", "products"),
    [
        (Int8Options(policy="bandwidth"), 49),
        (Int8Options(policy="all-conv"), 82),
        (Int8Options(include=("blocks.0.0.conv_dw",)), 34),
        (Int8Options(exclude=("conv_head", "logits")), 31),
    ],
    ids=["bandwidth", "all-conv", "one more", "two less"],
)
def test_an_engine_follows_the_requested_int8_policy(model, options, products):
    """Table 1 of arXiv:1905.11946: 32 pointwise convolutions and a classifier, 16 blocks, 81 convolutions."""
    notes = []
    built = build_engine(onnx=model, precision="int8", gpu="A100", int8=options, note=notes.append)
    assert built.manifest.audit.product_count("int8") == products
    summary = built.manifest.int8
    assert summary.policy == (options.policy or "dense")
    assert (summary.left_out, summary.excluded, summary.drop) == ((), (), None)
    assert any(f" {products} convolutions and linear layers" in note for note in notes)


def test_the_manifest_records_what_is_in_int8(model):
    built = build_engine(onnx=model, precision="int8", gpu="cpu")
    summary = read_engine_manifest(built.path).int8
    assert summary == Int8Summary(policy="pointwise", method="percentile 99.999", share=summary.share)
    assert summary.share == pytest.approx(place_int8(read_model(model), "pointwise").int8_share)
    assert build_engine(onnx=model, gpu="cpu").manifest.int8 is None


def test_a_side_range_of_only_the_models_side_is_fixed(random_b0, tmp_path):
    side = SideRange(min=64, opt=64, max=64)
    built = build_engine(onnx=random_b0.path, gpu="cpu", side=side, output=tmp_path / "b0.onnx")
    assert built.manifest.side is None
