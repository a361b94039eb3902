"""The respelled INT8 graph computes what the canonical one does, and TensorRT-RTX takes it as INT8."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import pytest
from handmade_graphs import constants_of, graph_of, ranges_of, run_unfused
from onnx import ModelProto, helper

from deploykit.data.images.open import open_images
from deploykit.engine import tensorrt_compiler as tensorrt
from deploykit.engine.audit.audit import Audit
from deploykit.engine.audit.graph_nodes import name_nodes
from deploykit.engine.audit.layer_log import LAYER_LINE, audit_builder_log
from deploykit.engine.compiled_engine import CompiledEngine
from deploykit.engine.lowering.rtx_int8 import lower_for_rtx, shared_scale
from deploykit.engine.shapes import BatchRange
from deploykit.engine.targets import Target
from deploykit.engine.tensorrt_compiler import compile_plan
from deploykit.onnx_tools.fp16 import to_fp16
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.quantize.calibrate import CalibrationSettings, calibrate
from deploykit.quantize.calibration.methods import named_method
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.placement import Policy, place_int8
from deploykit.quantize.qdq import insert_qdq
from deploykit.stats.accuracy_metrics import sqnr_db

FP16_MAX = 65504
SIDE_PX = 8
POINTWISE = 33  # of B0's convolutions and linear layers: Table 1 of arXiv:1905.11946


@pytest.fixture(scope="module")
def ranges(shared, trained) -> Ranges:
    images = open_images(shared / "cifar10_calib.npz", trained.info.preprocessing, limit=64)
    return calibrate(trained.path, images, CalibrationSettings(method=named_method("percentile")))


@pytest.fixture(scope="module")
def canonical(trained, ranges) -> ModelProto:
    """The trained model with plain Q/DQ pairs; where a range lies to one side of zero, it is centred."""
    model = read_model(trained.path)
    return insert_qdq(model, place_int8(model, "pointwise"), ranges)


def outputs(model: ModelProto, x: np.ndarray) -> np.ndarray:
    (y,) = run_unfused(model, {model.graph.input[0].name: x})
    return y


def quantized(nodes, weights, *, y: list[int], policy: Policy = "all-conv", channels: int = 16, **bounds):
    constants = {name: array.astype(np.float32) for name, array in weights.items()}
    takes = {"x": (channels, SIDE_PX, SIDE_PX)}
    model = graph_of(nodes, constants, takes=takes, gives={"y": tuple(y)})
    return insert_qdq(model, place_int8(model, policy), ranges_of(bounds))


def random(*shape: int) -> np.ndarray:
    """Weights whose channels differ in size a hundredfold, either way round."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal(shape) * 0.1
    return values * np.geomspace(0.1, 10, shape[0]).reshape(-1, *[1] * (len(shape) - 1))


def respelled_matches(model, *, channels: int = 16, sm: int | None = 75) -> bool:
    """Whether it computes the same, and spells what is in INT8 another way."""
    x = np.random.default_rng(1).uniform(-1, 1, (3, channels, SIDE_PX, SIDE_PX)).astype(np.float32)
    respelled = lower_for_rtx(model, sm=sm)
    onnx.checker.check_model(respelled, full_check=True)
    expected = outputs(model, x)
    one_scale = all(constants_of(respelled)[each.weight.input[1]].shape == () for each in products(respelled))
    return one_scale and bool(
        np.allclose(outputs(respelled, x), expected, atol=1e-4 * np.abs(expected).max())
    )


@dataclass(frozen=True, kw_only=True)
class Int8Product:
    """A product with an int8 weight, and the nodes that dequantize its activation and weight."""

    node: onnx.NodeProto
    activation: onnx.NodeProto
    weight: onnx.NodeProto


def products(model: ModelProto) -> list[Int8Product]:
    makers = {node.output[0]: node for node in model.graph.node}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        activation, weight = (makers.get(name) for name in node.input[:2])
        if activation is not None and activation.op_type == "Transpose":
            activation = makers[activation.input[0]]
        if weight is not None and weight.op_type == "DequantizeLinear":
            found.append(Int8Product(node=node, activation=activation, weight=weight))
    return found


@pytest.mark.parametrize("sm", [75, 80, 89, None])
def test_the_respelled_network_computes_what_the_canonical_one_does(trained, canonical, validation, sm):
    images = trained.info.preprocessing.normalize(validation.pixels[:80])
    respelled = lower_for_rtx(canonical, sm=sm)
    onnx.checker.check_model(respelled, full_check=True)
    # Sums in another order turn a few roundings: ONNX Runtime's own optimization levels differ by 47 dB.
    assert sqnr_db(outputs(respelled, images), outputs(canonical, images)) > 30


def test_the_network_under_test_is_centred(canonical):
    """The projections of B0's 16 blocks and its classifier read what Swish keeps above -0.28."""
    names = [node.output[0] for node in canonical.graph.node if node.op_type == "Add"]
    assert sum(name.endswith(".centred") for name in names) >= 16 + 1


@pytest.mark.parametrize("policy", ["bandwidth", "all-conv"])
@pytest.mark.parametrize("sm", [80, None])
def test_the_other_policies_are_respelled_too(trained, ranges, validation, policy, sm):
    model = read_model(trained.path)
    plain = insert_qdq(model, place_int8(model, policy), ranges)
    respelled = lower_for_rtx(plain, sm=sm)
    onnx.checker.check_model(respelled, full_check=True)
    assert len(products(respelled)) == {"bandwidth": 49, "all-conv": 82}[policy]
    images = trained.info.preprocessing.normalize(validation.pixels[:80])
    assert sqnr_db(outputs(respelled, images), outputs(plain, images)) > 25


def test_the_model_that_is_given_stays_as_it_is(canonical):
    before = to_bytes(canonical)
    lower_for_rtx(canonical, sm=75)
    assert to_bytes(canonical) == before


@pytest.mark.parametrize(("sm", "operation"), [(75, "MatMul"), (80, "Conv"), (89, "Conv"), (None, "Conv")])
def test_pointwise_convolutions_are_matrix_products_on_turing_alone(canonical, sm, operation):
    kinds = [each.node.op_type for each in products(lower_for_rtx(canonical, sm=sm))]
    assert kinds == [*[operation] * 32, "Gemm"]


@pytest.mark.parametrize("sm", [75, 89])
def test_every_weight_has_one_scale_with_which_no_sum_leaves_fp16(canonical, sm):
    respelled = lower_for_rtx(canonical, sm=sm)
    constants = constants_of(respelled)
    for each in products(respelled):
        step, scale = constants[each.activation.input[1]], constants[each.weight.input[1]]
        values = constants[each.weight.input[0]]
        inner = values.shape[0] if each.node.op_type == "MatMul" else values.shape[1]
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


BOUNDS = {"symmetric": 1.0, "centred": (-0.25, 1.0)}


@pytest.mark.parametrize("x", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("sm", [75, 89])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_single_convolution_is_respelled_exactly(sm, bias, x):
    weights = {"w": random(8, 16, 1, 1)} | ({"b": random(8)} if bias else {})
    convolution = helper.make_node("Conv", ["x", *weights], ["y"])
    assert respelled_matches(quantized([convolution], weights, y=[8, SIDE_PX, SIDE_PX], x=x), sm=sm)


@pytest.mark.parametrize("x", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize(
    ("shape", "attributes", "side_px"),
    [
        ((8, 16, 1, 1), {"strides": [2, 2]}, 4),
        ((8, 16, 1, 1), {"pads": [1, 1, 1, 1]}, 10),  # SqueezeNet 1.0's last one, as Caffe has it
        ((8, 4, 1, 1), {"group": 4}, 8),
        ((16, 1, 3, 3), {"group": 16, "pads": [1, 1, 1, 1]}, 8),
        ((16, 1, 5, 5), {"group": 16, "strides": [2, 2], "pads": [2, 2, 2, 2]}, 4),
        ((8, 16, 3, 3), {}, 6),
        ((8, 16, 3, 3), {"dilations": [2, 2]}, 4),
        ((8, 16, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, 4),
    ],
    ids=["stride", "pads", "groups", "depthwise", "5x5 depthwise", "3x3", "dilated", "padded by itself"],
)
def test_a_convolution_of_any_kind_is_respelled_exactly_after_turing(shape, attributes, side_px, x):
    weights = {"w": random(*shape), "b": random(shape[0])}
    convolution = helper.make_node("Conv", ["x", *weights], ["y"], **attributes)
    assert respelled_matches(quantized([convolution], weights, y=[shape[0], side_px, side_px], x=x), sm=89)


@pytest.mark.parametrize(
    ("attributes", "side_px"),
    [({"strides": [2, 2]}, 4), ({"pads": [1, 1, 1, 1]}, 10)],
    ids=["stride", "pads"],
)
def test_a_convolution_left_in_float_stays_as_it_was_on_turing(attributes, side_px):
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["h"]),
        helper.make_node("Conv", ["h", "w", "b"], ["y"], **attributes),
    ]
    weights = {"v": random(16, 16, 1, 1), "w": random(8, 16, 1, 1), "b": random(8)}
    model = quantized(nodes, weights, y=[8, side_px, side_px], policy="pointwise", x=1)
    assert len(products(model)) == 1
    assert respelled_matches(model, sm=75)


def test_a_convolution_that_says_it_does_not_pad_by_itself_is_a_matrix_product_on_turing():
    convolution = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="NOTSET")
    model = quantized([convolution], {"w": random(8, 16, 1, 1)}, y=[8, SIDE_PX, SIDE_PX], x=1)
    assert [each.node.op_type for each in products(lower_for_rtx(model, sm=75))] == ["MatMul"]
    assert respelled_matches(model)


FLATTEN = helper.make_node("Flatten", ["x"], ["f"])
INNER = 16 * SIDE_PX * SIDE_PX


@pytest.mark.parametrize("f", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_linear_layer_is_respelled_exactly(transposed, f):
    weight = random(4, INNER)
    layer = helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=transposed)
    weights = {"w": weight if transposed else weight.T, "b": random(4)}
    assert respelled_matches(quantized([FLATTEN, layer], weights, y=[4], f=f))


def test_a_linear_layer_whose_bias_is_a_row_is_respelled_exactly():
    layer = helper.make_node("Gemm", ["f", "w", "b"], ["y"])
    weights = {"w": random(4, INNER).T, "b": random(1, 4)}
    assert respelled_matches(quantized([FLATTEN, layer], weights, y=[4], f=1))


def test_the_sum_of_a_linear_layer_stored_the_other_way_round_stays_in_fp16():
    layer = helper.make_node("Gemm", ["f", "w"], ["y"], transB=0)
    respelled = lower_for_rtx(quantized([FLATTEN, layer], {"w": random(4, INNER).T}, y=[4], f=1), sm=75)
    constants = constants_of(respelled)
    (product,) = products(respelled)
    scale, step = constants[product.weight.input[1]], constants[product.activation.input[1]]
    assert float(scale) * float(step) * 127 * 127 * INNER <= FP16_MAX


def test_a_linear_layer_written_as_matmul_gets_one_scale_too():
    layer = helper.make_node("MatMul", ["f", "w"], ["y"])
    model = quantized([FLATTEN, layer], {"w": random(4, INNER).T}, y=[4], f=1)
    assert constants_of(model)["y.weight_scale"].shape == (4,)
    assert respelled_matches(model)


def test_a_weight_that_two_convolutions_read_is_respelled_for_both():
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])]
    model = quantized(nodes, {"w": random(16, 16, 1, 1)}, y=[16, SIDE_PX, SIDE_PX], x=1, h=10)
    assert len(products(lower_for_rtx(model, sm=89))) == 2
    assert respelled_matches(model, sm=89)


def test_a_residual_sum_in_int8_is_respelled_around():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["h"]),
        helper.make_node("Add", ["s", "h"], ["y"]),
    ]
    model = quantized(
        nodes, {"w": random(16, 16, 1, 1)}, y=[16, SIDE_PX, SIDE_PX], policy="bandwidth", s=(-1, 4), h=4
    )
    makers = {node.output[0]: node for node in lower_for_rtx(model, sm=89).graph.node}
    assert [makers[name].op_type for name in makers["y"].input] == ["DequantizeLinear"] * 2
    assert respelled_matches(model, sm=89)


def named(model):
    name_nodes(model)
    return model


def compiled(model, *, sm: int | None) -> CompiledEngine:
    name = "portable" if sm is None else "test"
    target = Target(name=name, compiler="tensorrt-rtx", sm=sm)
    return compile_plan(named(to_fp16(model)), target=target, batches=[BatchRange(max=8)])


@pytest.fixture(scope="module")
def audits(canonical) -> Iterator[Callable[..., Audit]]:
    """What the builder makes of the canonical graph, as it is or respelled; each built once."""

    @cache
    def audit(*, sm: int | None, respelled: bool) -> Audit:
        return compiled(lower_for_rtx(canonical, sm=sm) if respelled else canonical, sm=sm).audit

    yield audit
    audit.cache_clear()


def test_turing_gets_int8_products_from_the_respelled_graph_and_from_it_alone(audits):
    """Documents TensorRT-RTX 1.7; without the first fact, rtx_int8 has no reason to be for SM75."""
    plain = audits(sm=75, respelled=False)
    classifier = 1  # a matrix product in both
    assert plain.product_count("int8") == classifier, (
        f"TensorRT-RTX makes {plain.product_count('int8')} INT8 products for SM75 of plain Q/DQ, and "
        "1.7 made only the classifier: SMS_WITHOUT_INT8_CONVOLUTIONS can go."
    )
    assert audits(sm=75, respelled=True).product_count("int8") == POINTWISE


def test_later_gpus_get_int8_convolutions_from_both_graphs(audits):
    """The scales, not the type, are why SM89 gets the respelled graph."""
    assert audits(sm=89, respelled=False).product_count("int8") == POINTWISE
    assert audits(sm=89, respelled=True).product_count("int8") == POINTWISE


@pytest.mark.parametrize("sm", [80, None])
def test_every_centred_product_is_int8_for_ampere_and_in_the_portable_engine(audits, sm):
    audit = audits(sm=sm, respelled=True)
    assert (audit.product_count("int8"), audit.product_count("fp32")) == (POINTWISE, 0)


def types_int8_convolutions_write(model, monkeypatch, *, sm: int) -> set[str]:
    """What the builder's log says they hand to the next kernel."""
    lines: list[str] = []
    monkeypatch.setattr(
        tensorrt,
        "audit_builder_log",
        lambda seen, model: lines.extend(seen) or audit_builder_log(seen, model),
    )
    compiled(model, sm=sm)
    layers = [(LAYER_LINE.match(line), line.split("Outputs:")[1]) for line in lines]
    return {
        re.search(r"Datatype: (\w+)", written)[1]
        for layer, written in layers
        if layer["kind"] == "correlation" and "Int8" in layer["inputs"]
    }


def test_one_scale_halves_what_int8_convolutions_write(canonical, monkeypatch):
    """Documents TensorRT-RTX 1.7; without it, the respelled graph has less reason to be after Turing."""
    assert types_int8_convolutions_write(canonical, monkeypatch, sm=89) == {"Float"}
    assert types_int8_convolutions_write(lower_for_rtx(canonical, sm=89), monkeypatch, sm=89) == {"Half"}


@pytest.mark.parametrize("sm", [75, 89])
def test_a_matrix_product_applies_one_scale_itself_and_leaves_channel_scales_to_the_next_kernel(sm):
    """Documents TensorRT-RTX 1.7: the plan holds the product of both scales as FP32, or does not.

    Without it in FP32, the accumulators reach the next kernel unscaled, in FP16, and may overflow.
    """
    layer = helper.make_node("MatMul", ["f", "w"], ["y"])
    generator = np.random.default_rng(0)
    weights = {"w": generator.uniform(-1, 1, (16 * SIDE_PX * SIDE_PX, 64))}
    plain = quantized([FLATTEN, layer], weights, y=[64], f=1)
    respelled = lower_for_rtx(plain, sm=sm)
    constants = constants_of(respelled)
    (product,) = products(respelled)
    scales = (constants[node.input[1]] for node in (product.activation, product.weight))
    channel_products = (constants_of(plain)["y.weight_scale"] * constants["f.scale"]).astype(np.float32)
    assert np.float32(np.prod(list(scales))).tobytes() in compiled(respelled, sm=sm).data
    assert not any(each.tobytes() in compiled(plain, sm=sm).data for each in channel_products[:2])
