"""Models that take uint8 images, from the export to the engine."""

import numpy as np
import onnx
import pytest
from handmade_graphs import graph_of
from onnx import helper
from refusals import refuses
from small_models import archive

from deploykit.accuracy.evaluate import evaluate_model
from deploykit.bench.benchmark import benchmark
from deploykit.data.preprocessing import Preprocessing
from deploykit.engine.build import build_engine
from deploykit.engine.prepare_graph import apply_precision
from deploykit.engine.quantize_model import quantize_model
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import resolve_target
from deploykit.engine.tensorrt_compiler import compile_plan
from deploykit.networks.export import Export, export_onnx
from deploykit.networks.model_info import read_model_info
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.onnx_tools.uint8_input import takes_uint8, with_uint8_input, without_uint8_input
from deploykit.quantize.calibration_files import calibrate_to_file
from deploykit.quantize.int8_options import Int8Options
from deploykit.runtime import Engine
from deploykit.util.errors import DeployError

SIDE_PX = 64


@pytest.fixture(scope="module")
def pixel_b0(tmp_path_factory) -> Export:
    """random_b0, taking uint8."""
    return export_onnx(0, side_px=SIDE_PX, preprocess=True, output=tmp_path_factory.mktemp("pixels"))


def pixels(count: int, side_px: int = SIDE_PX) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side_px, side_px, 3), np.uint8)


def test_the_exported_model_answers_uint8_images_as_the_float_model_does_bit_for_bit(pixel_b0, random_b0):
    (given,) = cpu_session(pixel_b0.path).run(None, {"input": pixels(3)})
    floats = Preprocessing(side_px=SIDE_PX).normalize(pixels(3))
    (expected,) = cpu_session(random_b0.path).run(None, {"input": floats})
    np.testing.assert_array_equal(given, expected)


def test_the_file_says_what_it_takes(pixel_b0):
    model = onnx.load(pixel_b0.path)
    taken = model.graph.input[0].type.tensor_type
    assert taken.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in taken.shape.dim] == [0, SIDE_PX, SIDE_PX, 3]
    onnx.checker.check_model(model, full_check=True)
    assert pixel_b0.info.input_type == "uint8"


def test_reading_gives_the_float_model(pixel_b0, random_b0):
    plain, read = read_model(random_b0.path), read_model(pixel_b0.path)
    assert not takes_uint8(read)
    assert to_bytes(read.graph) == to_bytes(plain.graph)
    assert read_model_info(read).input_type == "uint8"
    assert read_model_info(plain).input_type == "float32"


def test_putting_on_and_taking_off_leaves_everything_as_it_was(random_b0):
    model = read_model(random_b0.path)
    before = to_bytes(model)
    there = with_uint8_input(model, Preprocessing(side_px=SIDE_PX))
    assert takes_uint8(there)
    assert to_bytes(without_uint8_input(there)) == to_bytes(model) == before
    assert without_uint8_input(model) is model


@pytest.mark.parametrize("values", [np.arange(256), np.arange(256)[::-1]])
def test_what_was_normalized_is_made_pixels_again(values):
    preprocessing = Preprocessing(side_px=16)
    images = values.astype(np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(preprocessing.denormalize(preprocessing.normalize(images)), images)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_engine_takes_uint8_images_and_nothing_else(pixel_b0, random_b0, tmp_path, precision):
    built, plain = (
        build_engine(onnx=model.path, precision=precision, gpu="cpu", output=tmp_path / f"{at}.onnx")
        for at, model in enumerate((pixel_b0, random_b0))
    )
    assert built.manifest.input_summary == f"uint8 (n, {SIDE_PX}, {SIDE_PX}, 3), n of 1 to 64"
    normalized = built.manifest.model.preprocessing.normalize(pixels(2))
    with Engine.load(built.path) as engine, Engine.load(plain.path) as reference:
        expected = reference(normalized)
        np.testing.assert_allclose(engine(pixels(2)), expected, atol=1e-5 * np.abs(expected).max())
        for wrong in (normalized, pixels(2).astype(np.float32), pixels(2).transpose(0, 3, 1, 2)):
            with refuses("input-shape-mismatch"):
                engine(wrong)
    assert benchmark(built.path, seconds=0.1, samples=10).latency_ms


def test_it_is_calibrated_quantized_and_evaluated_as_the_float_model_is(pixel_b0, random_b0, tmp_path):
    data = archive(tmp_path / "i.npz", 8, side_px=SIDE_PX)
    scores = []
    for at, model in enumerate((pixel_b0, random_b0)):
        ranges, _ = calibrate_to_file(data, onnx=model.path, method="max", output=tmp_path / f"{at}.json")
        options = Int8Options(ranges=ranges)
        int8, _ = quantize_model(onnx=model.path, int8=options, output=tmp_path / f"{at}.onnx")
        cpu = build_engine(
            onnx=model.path, precision="int8", gpu="cpu", int8=options, output=tmp_path / "e.onnx"
        )
        assert takes_uint8(onnx.load(int8)) == takes_uint8(onnx.load(cpu.path)) == (model is pixel_b0)
        scores.append([evaluate_model(each, data, reference=model.path).scores for each in (int8, cpu.path)])
    for one, other in zip(*scores, strict=True):
        assert one.sqnr_db == pytest.approx(other.sqnr_db, abs=0.1)
        assert one.agreement == other.agreement


def test_sides_may_be_many(pixel_b0, tmp_path):
    side = SideRange(min=48, opt=64, max=80)
    built = build_engine(onnx=pixel_b0.path, gpu="cpu", side=side, output=tmp_path / "e.onnx")
    assert built.manifest.input_summary == "uint8 (n, side, side, 3), n of 1 to 64, side of 48 to 80 px"
    with Engine.load(built.path) as engine:
        for side_px in (48, 64, 80):
            assert engine(pixels(1, side_px)).shape == (1, 1000)
        for wrong in (pixels(1, 96), pixels(1)[:, :48], pixels(1).transpose(0, 3, 1, 2)):
            with pytest.raises(DeployError, match="side of 48 to 80 px"):
                engine(wrong)


@pytest.mark.parametrize("gpu", ["T4", "L4"])
@pytest.mark.parametrize("side", [None, SideRange(min=48, opt=64, max=80)])
def test_tensorrt_compiles_it(pixel_b0, gpu, side):

    target = resolve_target(gpu)
    model = read_model(pixel_b0.path)
    graph = apply_precision(model, read_model_info(model), "fp16", target, onnx_sha256="")
    assert takes_uint8(graph)
    plan = compile_plan(graph, target=target, batches=[BatchRange(max=8)], side=side)
    plan.audit.require_precision("fp16")
    assert plan.audit.missing_products == 0


def test_a_model_with_nodes_of_such_names_keeps_them():
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="preprocess.0"),
        helper.make_node("GlobalAveragePool", ["r"], ["y"], name="preprocess.images"),
    ]
    model = graph_of(nodes, {}, takes={"x": (3, 8, 8)}, gives={"y": None})
    assert not takes_uint8(model)
    assert without_uint8_input(model) is model
    there = with_uint8_input(
        graph_of(nodes[1:], {}, takes={"r": (3, 8, 8)}, gives={"y": None}), Preprocessing(side_px=8)
    )
    assert [node.op_type for node in without_uint8_input(there).graph.node] == ["GlobalAveragePool"]
