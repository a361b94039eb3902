from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from safetensors.numpy import save_file

from deploykit.engine.build import build_engine
from deploykit.engine.manifest import read_engine_manifest
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.export import export_onnx, prepare_export
from deploykit.networks.model_info import read_model_info
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.networks.random_weights import random_weights
from deploykit.networks.torch_check import difference_from_torch
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session

CHECKPOINT = "efficientnet_b0_cifar10_64px.safetensors"


@pytest.fixture(scope="module")
def trained_logits(trained, validation) -> np.ndarray:
    """(2000, 10), through ONNX Runtime."""
    session = cpu_session(trained.path)
    normalize = trained.info.preprocessing.normalize
    batches = np.split(validation.pixels, 10)
    return np.concatenate([session.run(None, {"input": normalize(batch)})[0] for batch in batches])


def test_the_trained_model_has_its_published_accuracy(trained_logits, validation):
    # data/README.md: FP32 top-1 on these images is 1459 of 2000.
    assert (trained_logits.argmax(axis=1) == validation.labels).sum() == 1459


def test_the_trained_model_gives_the_logits_of_timm(trained_logits, shared):
    expected = np.load(shared / "expected_logits.npz")["logits"]
    assert expected.shape == (64, 10)
    assert np.abs(trained_logits[:64] - expected).max() < 1e-4 * np.abs(expected).max()


def test_an_export_differs_from_torch_by_less_than_a_ten_thousandth(trained, random_b0):
    for export in (trained, random_b0):
        assert 0 < export.difference.relative < 1e-4
        assert export.difference.absolute > 0


def test_the_reported_difference_is_that_of_the_file(random_b0):
    weights = random_weights(random_b0.network)
    assert (
        difference_from_torch(random_b0.path.read_bytes(), random_b0.network, weights) == random_b0.difference
    )


def test_classes_are_those_of_the_checkpoint_or_1000(trained, random_b0):
    assert trained.network.num_classes == 10
    assert random_b0.network.num_classes == 1000


def test_metadata_describe_the_model_and_its_weights(trained, random_b0, shared):
    for export in (trained, random_b0):
        assert read_model_info(read_model(export.path)) == export.info
        assert (export.info.family, export.info.phi, export.info.rule) == ("efficientnet", 0, "published")
        assert (export.info.precision, export.info.preprocessing.side_px) == ("fp32", 64)
        assert export.info.onnx_sha256 is None
    assert (trained.info.weights, random_b0.info.weights) == ("trained", "random")
    assert trained.info.weights_sha256 == load_weights(shared / CHECKPOINT).sha256
    assert random_b0.info.weights_sha256 == random_weights(random_b0.network).sha256


@pytest.mark.parametrize(
    ("output", "path"),
    [
        (None, "engines/efficientnet-phi0/model.onnx"),
        ("out", "out/model.onnx"),
        ("a/mine.onnx", "a/mine.onnx"),
    ],
)
def test_an_export_is_written_to_the_default_folder_or_the_given_output(tmp_path, monkeypatch, output, path):
    monkeypatch.chdir(tmp_path)
    export = export_onnx(0, side_px=32, num_classes=2, output=None if output is None else Path(output))
    assert export.path == Path(path)
    assert [file for file in Path().rglob("*") if file.is_file()] == [Path(path)]
    assert export.network.input == (3, 32, 32)


def test_scale_and_side_default_to_those_of_the_member():
    network, weights, info = prepare_export(1, num_classes=2)
    assert network.input == (3, 240, 240)
    assert info.preprocessing.side_px == 240
    assert weights.is_random
    # B1's parameters, less 998 classes.
    assert network.parameter_count == 7_794_184 - 998 * 1281


def test_the_formula_rule_is_used_and_recorded():
    network, _, info = prepare_export(-2, rule="formula", num_classes=2)
    assert network.input == (3, 168, 168)
    assert (info.phi, info.rule) == (-2, "formula")


def test_a_side_of_32_is_accepted_and_31_refused():
    with refuses("invalid-side") as caught:
        prepare_export(0, side_px=31)
    assert "--side 224" in caught.value.fix
    network, _, _ = prepare_export(0, side_px=32, num_classes=2)
    assert network.shapes["conv_head"] == (1280, 1, 1)


@pytest.mark.parametrize(
    ("phi", "options", "code"),
    [
        (0, {"side_px": 16}, "invalid-side"),
        (7.5, {}, "invalid-phi"),
        (float("nan"), {}, "invalid-phi"),
        (0, {"weights": Path("missing.pth")}, "checkpoint-not-found"),
    ],
)
def test_refused_exports_write_nothing(tmp_path, phi, options, code):
    with refuses(code):
        export_onnx(phi, output=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_with_a_different_number_of_classes_is_refused(tmp_path, shared):
    with refuses("checkpoint-unrecognized") as caught:
        export_onnx(0, weights=shared / CHECKPOINT, num_classes=7, side_px=64, output=tmp_path / "out")
    assert "classifier.bias (10,) instead of (7,)" in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_output_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with refuses("output-unwritable"):
        export_onnx(0, weights=tmp_path / "missing.pth", output=tmp_path / "file" / "out")


def test_a_failed_check_keeps_the_old_file(tmp_path):
    _, weights, _ = prepare_export(0, num_classes=2)
    # Finite weights whose products are not: no difference can be told, which must not pass for none.
    state = {**weights.state, "conv_stem.weight": weights.state["conv_stem.weight"] * np.float32(1e38)}
    save_file(state, tmp_path / "extreme.safetensors")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with refuses("export-check-failed"):
        export_onnx(0, weights=tmp_path / "extreme.safetensors", side_px=32, output=path)
    assert path.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["extreme.safetensors", "model.onnx"]


@pytest.mark.parametrize("name", ["conv_stem.weight", "blocks.3.1.conv_dw.weight", "bn2.running_mean"])
def test_a_tensor_off_by_one_percent_is_detected(name):
    network, weights, info = prepare_export(0, num_classes=10, side_px=32)
    altered = {**weights.state, name: weights.state[name] * np.float32(1.01) + np.float32(0.01)}
    model = to_bytes(build_onnx_model(network, Weights(state=altered, origin="altered"), info))
    assert difference_from_torch(model, network, weights).relative > 1e-4
    assert difference_from_torch(model, network, Weights(state=altered, origin="altered")).relative < 1e-4


def test_a_difference_is_relative_to_the_largest_logit():
    network, weights, info = prepare_export(0, num_classes=10, side_px=32)
    zero = np.zeros((10, 1280), np.float32)
    ones = np.ones(10, np.float32)
    expected = Weights(
        state={**weights.state, "classifier.weight": zero, "classifier.bias": 4 * ones}, origin="4"
    )
    actual = Weights(
        state={**weights.state, "classifier.weight": zero, "classifier.bias": 5 * ones}, origin="5"
    )
    difference = difference_from_torch(to_bytes(build_onnx_model(network, actual, info)), network, expected)
    assert (difference.absolute, difference.relative) == (1, 0.25)


def test_a_model_whose_logits_are_all_zero_does_not_differ():
    network, weights, info = prepare_export(0, num_classes=10, side_px=32)
    state = {**weights.state, "classifier.weight": np.zeros((10, 1280), np.float32)}
    silent = Weights(state=state, origin="silent")
    assert (
        difference_from_torch(to_bytes(build_onnx_model(network, silent, info)), network, silent).relative
        == 0
    )


def test_an_interpolated_member_can_be_exported(tmp_path):
    export = export_onnx(0.5, side_px=32, num_classes=2, output=tmp_path)
    # sqrt(1.1) deeper: 3.15 and 4.20 blocks, which round up to one more.
    assert {conv.block for conv in export.network.convolutions} >= {"blocks.3.3", "blocks.5.4"}
    assert export.difference.relative < 1e-4


def test_labels_are_copied_to_the_manifest_of_the_engine(tmp_path):
    names = tuple(f"größe {at}" for at in range(1000))
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    model = export_onnx(0, side_px=32, labels=tmp_path / "labels.txt", output=tmp_path / "m.onnx").path
    built = build_engine(onnx=model, gpu="cpu", output=tmp_path / "e.onnx")
    assert read_engine_manifest(built.path).model.labels == names


@pytest.mark.parametrize("lines", [["a"], ["a"] * 1001, [*["a"] * 999, ""]])
def test_a_wrong_number_of_labels_is_refused(tmp_path, lines):
    (tmp_path / "labels.txt").write_text("\n".join(lines) + "\n")
    with refuses("labels-invalid"):
        export_onnx(0, side_px=32, labels=tmp_path / "labels.txt", output=tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_labels_that_cannot_be_read_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "labels.txt").write_bytes(content)
    with refuses("labels-invalid"):
        export_onnx(0, side_px=32, labels=tmp_path / "labels.txt", output=tmp_path / "m.onnx")
