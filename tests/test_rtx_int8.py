"""The respelled INT8 graph computes what the canonical one does, and TensorRT-RTX takes it as INT8."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.engine import tensorrt
from deploykit.engine.audit import LAYER_LINE, audit_log
from deploykit.engine.manifest import BatchRange
from deploykit.engine.rtx_int8 import respell, shared_scale
from deploykit.engine.targets import Target
from deploykit.engine.tensorrt import Plan, compile_plan
from deploykit.evaluate import sqnr_db
from deploykit.model_file import read_model, to_bytes
from deploykit.precision import to_fp16
from deploykit.quantize.calibration import calibrate
from deploykit.quantize.histogram import Histogram
from deploykit.quantize.images import open_images
from deploykit.quantize.placement import pointwise
from deploykit.quantize.qdq import insert_qdq
from deploykit.quantize.ranges import Ranges
from deploykit.sessions import cpu_session

FP16_MAX = 65504
SIDE_PX = 8


@pytest.fixture(scope="module")
def canonical(shared, trained):
    """The trained model with plain Q/DQ pairs."""
    images = open_images(shared / "cifar10_calib.npz", trained.info.preprocessing, limit=64)
    model = read_model(trained.path)
    return insert_qdq(model, pointwise(model), calibrate(trained.path, images))


def outputs(model, x: np.ndarray) -> np.ndarray:
    session = cpu_session(to_bytes(model), fuse_int8=False)
    (y,) = session.run(None, {model.graph.input[0].name: x})
    return y


def ranges_of(**amax: float) -> Ranges:
    histograms = {}
    for name, value in amax.items():
        histograms[name] = Histogram()
        histograms[name].add(np.array([value], np.float32))
    return Ranges(
        onnx_sha256="", method="max", percentile=100, source="by hand", images=1, histograms=histograms
    )


def quantized(nodes, weights, *, y: list[int], channels: int = 16, **amax: float):
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, SIDE_PX, SIDE_PX])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", *y])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return insert_qdq(model, pointwise(model), ranges_of(**amax))


def random(*shape: int) -> np.ndarray:
    """Weights whose channels differ in size a hundredfold, either way round."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal(shape) * 0.1
    return values * np.geomspace(0.1, 10, shape[0]).reshape(-1, *[1] * (len(shape) - 1))


def respelled_matches(model, *, channels: int = 16, sm: int | None = 75) -> bool:
    x = np.random.default_rng(1).uniform(-1, 1, (3, channels, SIDE_PX, SIDE_PX)).astype(np.float32)
    respelled = respell(model, sm=sm)
    onnx.checker.check_model(respelled, full_check=True)
    expected = outputs(model, x)
    return bool(np.allclose(outputs(respelled, x), expected, atol=1e-4 * np.abs(expected).max()))


def constants_of(model) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("sm", [75, 89, None])
def test_the_respelled_network_computes_what_the_canonical_one_does(trained, canonical, validation, sm):
    images = trained.info.preprocessing.normalize(validation.pixels[:80])
    respelled = respell(canonical, sm=sm)
    onnx.checker.check_model(respelled, full_check=True)
    # Sums in another order turn a few roundings: ONNX Runtime's own optimization levels differ by 47 dB.
    assert sqnr_db(outputs(respelled, images), outputs(canonical, images)) > 30


def test_the_model_that_is_given_stays_as_it_is(canonical):
    before = to_bytes(canonical)
    respell(canonical, sm=75)
    assert to_bytes(canonical) == before


def products(model) -> list[tuple]:
    """Products with an int8 weight: the node, and the nodes that dequantize its activation and weight."""
    makers = {node.output[0]: node for node in model.graph.node}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        activation, weight = (makers.get(name) for name in node.input[:2])
        if activation is not None and activation.op_type == "Transpose":
            activation = makers[activation.input[0]]
        if weight is not None and weight.op_type == "DequantizeLinear":
            found.append((node, activation, weight))
    return found


@pytest.mark.parametrize(("sm", "operation"), [(75, "MatMul"), (80, "Conv"), (89, "Conv"), (None, "Conv")])
def test_pointwise_convolutions_are_matrix_products_on_turing_alone(canonical, sm, operation):
    kinds = [node.op_type for node, _, _ in products(respell(canonical, sm=sm))]
    assert kinds == [*[operation] * 32, "Gemm"]


@pytest.mark.parametrize("sm", [75, 89])
def test_every_weight_has_one_scale_with_which_no_sum_leaves_fp16(canonical, sm):
    respelled = respell(canonical, sm=sm)
    constants = constants_of(respelled)
    for node, activation, weight in products(respelled):
        step, scale = constants[activation.input[1]], constants[weight.input[1]]
        values = constants[weight.input[0]]
        inner = values.shape[0] if node.op_type == "MatMul" else values.shape[1]
        assert scale.shape == ()
        assert float(scale) * float(step) * 127 * 127 * inner <= FP16_MAX
        assert np.log2(scale) == np.round(np.log2(scale))


@pytest.mark.parametrize(
    ("activation_scale", "inner", "scale"),
    [
        # 65504 / (127 * 127) is 4.0613: 2^2 fits and 2^3 does not.
        (1.0, 1, 4.0),
        (1.0, 4, 1.0),
        (1.0, 5, 0.5),
        (2.0, 1, 2.0),
        (0.02, 1152, 0.125),  # 4.0613 / 23.04 = 0.1763
        (0.5, 2304, 2.0**-9),  # 4.0613 / 1152 = 0.003525
    ],
)
def test_the_shared_scale_is_the_largest_power_of_two_that_fits(activation_scale, inner, scale):
    assert shared_scale(activation_scale, inner) == scale
    assert scale * activation_scale * 127 * 127 * inner <= FP16_MAX
    assert 2 * scale * activation_scale * 127 * 127 * inner > FP16_MAX


def test_the_shared_scale_of_activations_near_zero_is_itself_in_fp16():
    assert shared_scale(2.0**-24, 16) <= FP16_MAX


@pytest.mark.parametrize("sm", [75, 89])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2]], ids=["stride 1", "stride 2"])
def test_a_single_convolution_is_respelled_exactly(sm, bias, strides):
    weights = {"w": random(8, 16, 1, 1)} | ({"b": random(8)} if bias else {})
    side_px = SIDE_PX // strides[0]
    convolution = helper.make_node("Conv", ["x", *weights], ["y"], strides=strides)
    assert respelled_matches(quantized([convolution], weights, y=[8, side_px, side_px], x=1), sm=sm)


FLATTEN = helper.make_node("Flatten", ["x"], ["f"])
INNER = 16 * SIDE_PX * SIDE_PX


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_linear_layer_is_respelled_exactly(transposed):
    weight = random(4, INNER)
    layer = helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=transposed)
    weights = {"w": weight if transposed else weight.T, "b": random(4)}
    assert respelled_matches(quantized([FLATTEN, layer], weights, y=[4], f=1))


def test_the_sum_of_a_linear_layer_stored_the_other_way_round_stays_in_fp16():
    layer = helper.make_node("Gemm", ["f", "w"], ["y"], transB=0)
    respelled = respell(quantized([FLATTEN, layer], {"w": random(4, INNER).T}, y=[4], f=1), sm=75)
    constants = constants_of(respelled)
    scale = next(float(array) for name, array in constants.items() if name.endswith("weight_scale"))
    assert scale * float(constants["f.scale"]) * 127 * 127 * INNER <= FP16_MAX


def test_a_linear_layer_written_as_matmul_gets_one_scale_too():
    layer = helper.make_node("MatMul", ["f", "w"], ["y"])
    respelled = respell(quantized([FLATTEN, layer], {"w": random(4, INNER).T}, y=[4], f=1), sm=75)
    weight = next(node for node in respelled.graph.node if node.output[0] == "y.weight")
    assert constants_of(respelled)[weight.input[1]].shape == ()


def test_a_padded_pointwise_convolution_keeps_its_border():
    """SqueezeNet 1.0's last convolution, as Caffe has it, is one."""
    weights = {"w": random(8, 16, 1, 1), "b": random(8)}
    convolution = helper.make_node("Conv", ["x", *weights], ["y"], pads=[1, 1, 1, 1])
    assert respelled_matches(quantized([convolution], weights, y=[8, 10, 10], x=1))


def test_a_weight_that_two_convolutions_read_is_respelled_for_both():
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])]
    model = quantized(nodes, {"w": random(16, 16, 1, 1)}, y=[16, SIDE_PX, SIDE_PX], x=1, h=10)
    assert respelled_matches(model, sm=89)


def compiled(model, *, sm: int) -> Plan:
    target = Target(name="test", compiler="tensorrt-rtx", sm=sm)
    return compile_plan(to_bytes(to_fp16(model)), target=target, batch=BatchRange(max=8))


def test_turing_gets_int8_products_from_the_respelled_graph_and_from_it_alone(canonical):
    """Documents TensorRT-RTX 1.7; without the first fact, rtx_int8 has no reason to be for SM75."""
    plain, respelled = compiled(canonical, sm=75), compiled(respell(canonical, sm=75), sm=75)
    classifier = 1  # a matrix product in both
    assert plain.audit.int8 == classifier, (
        f"TensorRT-RTX {plain.compiler_version} makes {plain.audit.int8} INT8 products for SM75 of plain "
        "Q/DQ convolutions, and 1.7 made none: SMS_WITHOUT_INT8_CONVOLUTIONS can go."
    )
    assert respelled.audit.int8 == 33


def test_later_gpus_get_int8_convolutions_from_both_graphs(canonical):
    """The scales, not the type, are why SM89 gets the respelled graph."""
    assert compiled(canonical, sm=89).audit.int8 == 33
    assert compiled(respell(canonical, sm=89), sm=89).audit.int8 == 33


def types_int8_convolutions_write(model, monkeypatch, *, sm: int) -> set[str]:
    """What the builder's log says they hand to the next kernel."""
    lines: list[str] = []
    monkeypatch.setattr(tensorrt, "audit_log", lambda seen: lines.extend(seen) or audit_log(seen))
    compiled(model, sm=sm)
    layers = [(LAYER_LINE.match(line), line.split("Outputs:")[1]) for line in lines]
    return {
        re.search(r"Datatype: (\w+)", written)[1]
        for layer, written in layers
        if layer[1] == "correlation" and "Int8" in layer[2]
    }


def test_one_scale_halves_what_int8_convolutions_write(canonical, monkeypatch):
    """Documents TensorRT-RTX 1.7; without it, the respelled graph has less reason to be after Turing."""
    assert types_int8_convolutions_write(canonical, monkeypatch, sm=89) == {"Float"}
    assert types_int8_convolutions_write(respell(canonical, sm=89), monkeypatch, sm=89) == {"Half"}


@pytest.mark.parametrize("sm", [75, 89])
def test_a_matrix_product_applies_one_scale_itself_and_leaves_channel_scales_to_the_next_kernel(sm):
    """Documents TensorRT-RTX 1.7: the plan holds the product of both scales as FP32, or does not.

    Without it in FP32, the accumulators reach the next kernel unscaled, in FP16, and may overflow.
    """
    layer = helper.make_node("MatMul", ["f", "w"], ["y"])
    generator = np.random.default_rng(0)
    weights = {"w": generator.uniform(-1, 1, (16 * SIDE_PX * SIDE_PX, 64))}
    plain = quantized([FLATTEN, layer], weights, y=[64], f=1)
    respelled = respell(plain, sm=sm)
    constants = constants_of(respelled)
    product = np.float32(constants["f.scale"] * constants["y.weight_scale"]).tobytes()
    channel_products = (constants_of(plain)["w.scale"] * constants["f.scale"]).astype(np.float32)
    assert product in compiled(respelled, sm=sm).data
    assert not any(each.tobytes() in compiled(plain, sm=sm).data for each in channel_products[:2])
