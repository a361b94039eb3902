import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from deploykit.engine.manifest import BatchRange, manifest_path, read_manifest
from deploykit.errors import DeployError
from deploykit.evaluate import agreement
from deploykit.files import sha256_of
from deploykit.model_file import read_model
from deploykit.pipeline import build_engine
from deploykit.quantize.calibration import calibrate_to_file
from deploykit.quantize.ranges import Ranges
from deploykit.runtime import Engine


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


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
def test_an_engine_lands_beside_its_model_with_a_manifest_of_what_it_is(model, precision, gpu, name):
    batch = BatchRange(min=1, opt=2, max=4)
    built = build_engine(onnx=model, precision=precision, gpu=gpu, batch=batch)
    assert built.path == model.with_name(name)
    assert files_in(model.parent) == {"model.onnx", name, f"{name}.json"}
    manifest = read_manifest(built.path)
    assert manifest == built.manifest
    assert manifest.precision == manifest.model.precision == name.split(".")[1]
    assert manifest.engine_sha256 == sha256_of(built.path)
    assert manifest.model.onnx_sha256 == sha256_of(model)
    assert (manifest.model.ranges_sha256 is not None) == (precision == "int8")
    assert (manifest.model.family, manifest.model.phi, manifest.model.weights) == (
        "efficientnet",
        0,
        "random",
    )
    assert manifest.model.preprocessing.side_px == 64
    assert manifest.batch == batch
    assert (manifest.input.name, manifest.input.shape) == ("input", (3, 64, 64))
    assert (manifest.output.name, manifest.output.shape) == ("logits", (1000,))
    assert manifest.input.dtype == manifest.output.dtype == "float32"
    # 33 of B0's convolutions and linear layers: Table 1 of arXiv:1905.11946.
    assert manifest.audit.int8 == (33 if precision == "int8" else 0)


def test_without_a_gpu_named_or_present_the_engine_is_portable(model, monkeypatch):
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: None)
    notes = []
    built = build_engine(onnx=model, note=notes.append)
    assert built.path.name == "model.fp16.portable.engine"
    assert (built.manifest.target.name, built.manifest.target.sm) == ("portable", None)
    assert any("portable engine" in note for note in notes)


def test_a_cpu_artifact_carries_its_story_in_its_metadata(model):
    built = build_engine(onnx=model, precision="int8", gpu="cpu")
    metadata = {entry.key: entry.value for entry in onnx.load(built.path).metadata_props}
    assert metadata["deploykit.precision"] == "int8"
    assert metadata["deploykit.onnx_sha256"] == sha256_of(model)
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


def test_an_engine_goes_where_it_is_told_to(model, workplace):
    output = workplace / "new" / "folder" / "my.onnx"
    assert build_engine(onnx=model, gpu="cpu", output=output).path == output
    assert output.is_file()
    assert manifest_path(output).is_file()


def test_int8_of_trained_weights_without_data_is_refused_and_nothing_written(trained_model):
    with pytest.raises(
        DeployError, match=r"INT8 needs calibration images: .*model\.onnx has trained"
    ) as caught:
        build_engine(onnx=trained_model, precision="int8", gpu="cpu")
    assert "--data DIR" in caught.value.fix
    assert files_in(trained_model.parent) == {"model.onnx"}


def test_int8_is_calibrated_on_the_data_given(trained_model, shared, trained, validation):
    calls = []
    built = build_engine(
        onnx=trained_model,
        precision="int8",
        gpu="cpu",
        data=shared / "cifar10_calib.npz",
        progress=calls.append,
    )
    assert "calibrating, 512 of 512 images" in calls
    images = trained.info.preprocessing.normalize(validation.pixels[:64])
    with (
        Engine.load(built.path) as engine,
        Engine.load(build_engine(onnx=trained_model, gpu="cpu").path) as fp32,
    ):
        # ONNX Runtime's own kernels saturate on processors without VNNI: data/README.md.
        assert agreement(engine(images), fp32(images)) >= 0.9


def test_random_weights_are_calibrated_on_generated_images_and_the_user_told(model):
    notes = []
    build_engine(onnx=model, precision="int8", gpu="cpu", note=notes.append)
    assert any("generated images, right for latency alone" in note for note in notes)


def test_ranges_of_the_model_are_found_in_calibration_whatever_they_are_called(trained_model, workplace):
    calibrate_to_file("generated", onnx=trained_model, limit=2, output=Path("calibration/odd.ranges.json"))
    notes = []
    built = build_engine(onnx=trained_model, precision="int8", gpu="cpu", note=notes.append)
    assert built.manifest.model.ranges_sha256 == sha256_of(workplace / "calibration" / "odd.ranges.json")
    assert "Ranges: calibration/odd.ranges.json, of 2 images from generated." in notes


def test_ranges_of_another_model_in_calibration_are_passed_over(trained_model, random_b0):
    calibrate_to_file("generated", onnx=random_b0.path, limit=2)
    with pytest.raises(DeployError, match="INT8 needs calibration images"):
        build_engine(onnx=trained_model, precision="int8", gpu="cpu")


def test_a_damaged_file_in_calibration_does_not_hide_the_others(trained_model, workplace):
    calibrate_to_file("generated", onnx=trained_model, limit=2)
    (workplace / "calibration" / "cut.ranges.json").write_text('{"format": 1, "onnx')
    assert build_engine(onnx=trained_model, precision="int8", gpu="cpu").path.is_file()


def test_ranges_given_by_name_are_used(trained_model, workplace):
    given, _ = calibrate_to_file("generated", onnx=trained_model, limit=2, output=workplace / "mine.json")
    built = build_engine(onnx=trained_model, precision="int8", gpu="cpu", ranges=given)
    assert built.manifest.model.ranges_sha256 == Ranges.load(given).sha256 == sha256_of(given)


def test_ranges_of_another_model_given_by_name_are_refused(trained_model, random_b0, workplace):
    given, _ = calibrate_to_file("generated", onnx=random_b0.path, limit=2, output=workplace / "other.json")
    with pytest.raises(DeployError, match="measured on another model"):
        build_engine(onnx=trained_model, precision="int8", gpu="cpu", ranges=given)
    assert files_in(workplace) == {"model.onnx", "other.json"}


def test_a_model_that_is_int8_already_is_refused(model):
    int8 = build_engine(onnx=model, precision="int8", gpu="cpu").path
    with pytest.raises(DeployError, match="is already INT8") as caught:
        build_engine(onnx=int8, gpu="cpu")
    assert "FP32 model" in caught.value.fix


@pytest.mark.parametrize("output", ["file/engine.onnx", "file/deeper/engine.onnx", "folder"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(model, workplace, output):
    (workplace / "file").write_text("in the way")
    (workplace / "folder").mkdir()
    phases = []
    with pytest.raises(DeployError, match=r"can't be written|is not a file that can be replaced"):
        build_engine(onnx=model, gpu="cpu", output=workplace / output, progress=phases.append)
    assert phases == []
    assert files_in(workplace) == {"model.onnx", "file"}


def test_the_model_itself_is_not_overwritten(model):
    before = sha256_of(model)
    with pytest.raises(DeployError):
        build_engine(onnx=model, gpu="cpu", output=model)
    assert sha256_of(model) == before


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"gpu": "T4", "precision": "fp32"}, "no FP32 matrix products for T4"),
        ({"gpu": "cpu", "precision": "fp16"}, "no FP16 arithmetic on CPUs"),
        ({"gpu": "V100"}, "can't compile for V100"),
        ({"gpu": "cpu", "precision": "int8", "data": "photos"}, r"broken\.png is not a readable image"),
        ({"gpu": "cpu", "precision": "int8", "data": "nowhere"}, "There is no folder nowhere"),
        ({"gpu": "cpu", "precision": "int8", "ranges": Path("none.json")}, r"no ranges file none\.json"),
    ],
)
def test_a_build_that_fails_leaves_nothing_behind(model, workplace, options, problem):
    (workplace / "photos").mkdir()
    (workplace / "photos" / "broken.png").write_bytes(b"no image")
    with pytest.raises(DeployError, match=problem):
        build_engine(onnx=model, **options)
    assert files_in(workplace) == {"model.onnx", "photos/broken.png"}


def test_an_engine_with_less_int8_than_planned_is_refused(model, monkeypatch):
    """Without the respelling TensorRT-RTX 1.7 makes the classifier alone INT8 on SM75."""
    monkeypatch.setattr("deploykit.pipeline.respell", lambda graph, *, sm: graph)
    with pytest.raises(DeployError):
        build_engine(onnx=model, gpu="T4", precision="int8")


def test_a_failed_build_keeps_the_engine_that_was_there(model):
    built = build_engine(onnx=model, gpu="T4", output=model.with_name("my.engine"))
    with pytest.raises(DeployError):
        build_engine(onnx=model, gpu="T4", precision="fp32", output=built.path)
    assert read_manifest(built.path) == built.manifest


def test_a_model_beyond_fp16_is_refused_for_a_gpu_with_the_way_out(model):
    broken = read_model(model)
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name == "classifier.weight")
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[0] = 1e6
    weight.raw_data = values.tobytes()
    model.write_bytes(broken.SerializeToString())
    with pytest.raises(DeployError, match=r"classifier\.weight holds a weight of 1e\+06") as caught:
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
    built = build_engine(onnx=foreign_model, precision="int8", gpu="T4", data="generated")
    assert (built.manifest.model.family, built.manifest.model.phi) == ("unknown", None)
    assert built.manifest.audit.int8 == 33


def test_a_manifest_does_not_claim_that_foreign_weights_were_trained(foreign_model):
    assert build_engine(onnx=foreign_model, gpu="cpu").manifest.model.weights == "unknown"
