"""The CPU artifact of a trained network."""

from collections import Counter

import numpy as np
import pytest
from emulated_cpu import run_without_vnni
from qdq_graphs import outputs

from deploykit.accuracy.evaluate import evaluate_model
from deploykit.data.images.open import open_images
from deploykit.engine.build import build_engine
from deploykit.engine.lowering.cpu_int8 import lower_for_cpu
from deploykit.engine.onnxruntime_compiler import audit_kernels, prepare_artifact
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.calibrate import CalibrationSettings, calibrate
from deploykit.quantize.calibration.methods import named_method
from deploykit.quantize.int8_options import Int8Options
from deploykit.quantize.placement import place_int8
from deploykit.quantize.qdq import insert_qdq
from deploykit.stats.accuracy_metrics import sqnr_db


@pytest.fixture(scope="module")
def canonical(shared, trained):
    """The trained B0 with plain Q/DQ pairs."""
    data = open_images(shared / "cifar10_calib.npz", trained.info.preprocessing, limit=16)
    ranges = calibrate(trained.path, data, CalibrationSettings(method=named_method("percentile")))
    model = read_model(trained.path)
    return insert_qdq(model, place_int8(model, "pointwise"), ranges)


@pytest.fixture(scope="module")
def artifact(canonical):
    return lower_for_cpu(canonical)


def test_the_artifact_is_as_accurate_as_plain_q_dq(trained, canonical, artifact, validation):
    x = trained.info.preprocessing.normalize(validation.pixels[:200])
    reference = outputs(read_model(trained.path), x, fuse_int8=False)
    plain = sqnr_db(outputs(canonical, x, fuse_int8=False), reference)
    assert sqnr_db(outputs(artifact, x, fuse_int8=True), reference) > plain - 1
    assert plain > 25


def test_the_artifacts_integer_kernels_compute_what_its_q_dq_says(trained, artifact, validation):
    x = trained.info.preprocessing.normalize(validation.pixels[:100])
    fused, unfused = (outputs(artifact, x, fuse_int8=each) for each in (True, False))
    # Sums in another order turn a few roundings.
    assert sqnr_db(fused, unfused) > 38


def test_without_vnni_a_trained_network_computes_the_same(trained, artifact, validation, tmp_path):
    x = trained.info.preprocessing.normalize(validation.pixels[:4])
    computed = run_without_vnni({"artifact": (artifact, x)}, tmp_path)["artifact"]
    assert sqnr_db(computed, outputs(artifact, x, fuse_int8=False)) > 38


def test_the_gate_measures_the_artifact_as_it_will_run(shared, trained, validation, tmp_path):
    """By `max`, which leaves enough noise for the artifact and TensorRT's arithmetic to differ."""
    images = open_images(shared / "cifar10_calib.npz", trained.info.preprocessing, limit=64)
    ranges, labelled = tmp_path / "max.json", tmp_path / "labelled.npz"
    calibrate(trained.path, images, CalibrationSettings(method=named_method("max"))).save(ranges)
    np.savez(labelled, images=validation.pixels[:500], labels=validation.labels[:500])
    options = Int8Options(ranges=ranges, eval_data=labelled, max_drop=5, policy="pointwise", float_budget=0)
    built = build_engine(
        onnx=trained.path, precision="int8", gpu="cpu", int8=options, output=tmp_path / "a.onnx"
    )
    scores = evaluate_model(built.path, labelled, reference=trained.path).scores
    assert built.manifest.int8.drop == pytest.approx(100 * scores.top1_drop.value, abs=1e-6)


def test_every_planned_product_runs_in_integers(artifact):
    audit = prepare_artifact(artifact).audit
    assert (audit.product_count("int8"), audit.product_count("fp16"), audit.product_count("fp32")) == (
        33,
        0,
        49,
    )


def test_plain_q_dq_runs_in_float_almost_everywhere(canonical):
    """Documents ONNX Runtime 1.31: with integer convolutions that write floats, this graph would do."""
    assert audit_kernels(canonical).product_count("int8") < 5


def test_a_float_model_has_no_integers(random_b0):
    audit = prepare_artifact(read_model(random_b0.path)).audit
    assert (audit.product_count("int8"), audit.product_count("fp16"), audit.product_count("fp32")) == (
        0,
        0,
        82,
    )
    assert audit.summary().endswith("(ONNX Runtime's optimized graph)")
    assert audit.missing_products == 0
    assert audit.macs_share("fp32") == 1


def test_a_block_transposes_twice(artifact):
    kinds = Counter(each.op_type for each in artifact.graph.node)
    assert kinds["Transpose"] == 2 * 16  # before each block's depthwise convolution, and behind
