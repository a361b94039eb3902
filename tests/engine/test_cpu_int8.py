"""The CPU's INT8 graph computes what the canonical one does, in integers, and saturates on no CPU."""

import sys
from collections import Counter

import numpy as np
import onnx
import pytest
from emulated_cpu import run_without_vnni
from handmade_graphs import constants_of
from onnx import helper, numpy_helper
from qdq_graphs import (
    SHARED,
    SIDE_PX,
    STEP,
    activation_pair,
    convolution,
    exactly,
    extremes,
    graph_of,
    images,
    linear,
    outputs,
    quiet,
    weight_constants,
    weight_pair,
)

from deploykit.engine.lowering.cpu_int8 import lower_for_cpu, uint8_quantization
from deploykit.engine.onnxruntime_compiler import audit_kernels
from deploykit.onnx_tools.inline_constants import inline_constants
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.stats.accuracy_metrics import sqnr_db

# ---------------------------------------------------------------- saturation

WORST = {
    "convolution": lambda: convolution(
        extremes(8, 64)[:, :, None, None], bias=np.arange(-9, 7, 2, dtype="f4")
    ),
    "odd number of inputs": lambda: convolution(extremes(8, 33)[:, :, None, None]),
    "two inputs": lambda: convolution(extremes(8, 2)[:, :, None, None]),
    "linear layer": lambda: linear(extremes(16, 200)),
    "linear layer, stored the other way round": lambda: linear(extremes(16, 200), transposed=0),
    "linear layer as MatMul": lambda: linear(extremes(16, 200), op="MatMul", transposed=0),
}


@pytest.mark.parametrize("case", WORST)
def test_the_worst_weights_and_activations_give_what_exact_integers_give(case):
    respelled = lower_for_cpu(WORST[case]())
    onnx.checker.check_model(respelled, full_check=True)
    assert audit_kernels(respelled).product_count("int8") == 1
    x = images(respelled)
    expected = exactly(respelled, x)
    assert np.allclose(outputs(respelled, x, fuse_int8=True), expected, rtol=1e-5, atol=1e-6)
    assert np.allclose(outputs(respelled, x, fuse_int8=False), expected, rtol=1e-4, atol=1e-4)


def plain_product() -> onnx.ModelProto:
    """Q/DQ in int8 around a matrix product, as any quantizer writes it."""
    values = extremes(16, 200)
    model = linear(values)
    bias = {
        "b_values": np.zeros(16, np.int32),
        "b_scales": STEP * constants_of(model)["w_scales"],
        "b_zeros": np.zeros(16, np.int32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in bias.items())
    product = model.graph.node.pop()
    product.input.append("b")
    model.graph.node.extend([*weight_pair("b"), product])
    return model


@pytest.mark.skipif(sys.platform != "linux", reason="qemu's user emulation is Linux's")
def test_without_vnni_the_worst_weights_saturate_as_they_are_and_not_once_they_are_respelled(tmp_path):
    respelled = {name: lower_for_cpu(make()) for name, make in WORST.items()}
    cases = {name: (model, images(model)) for name, model in respelled.items()}
    plain = plain_product()
    assert audit_kernels(plain).product_count("int8") == 1
    x = images(plain)
    computed = run_without_vnni(cases | {"plain": (plain, x)}, tmp_path)
    for name, (model, each) in cases.items():
        assert np.allclose(computed[name], exactly(model, each), rtol=1e-5, atol=1e-6), name
    # Else this CPU is not what the test is about.
    assert sqnr_db(computed["plain"], outputs(plain, x, fuse_int8=False)) < 20


def test_a_bias_far_larger_than_its_channels_weights_still_fits_32_bits():
    # Steps as small as FP16 has them, 2^-24, and activations' of 2^-10: a bias of 5 is 8.6e10 of both.
    model = convolution(np.zeros((2, 4, 1, 1)), bias=np.array([5, -3], np.float32))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    tiny = numpy_helper.from_array(np.full(2, 2.0**-24, np.float32), "w_scales")
    constants["w_scales"].CopyFrom(tiny)
    constants["step"].CopyFrom(numpy_helper.from_array(np.float32(2.0**-10), "step"))
    respelled = lower_for_cpu(model)
    y = outputs(respelled, images(respelled), fuse_int8=True)
    assert np.allclose(y[:, 0], 5)
    assert np.allclose(y[:, 1], -3)


# ---------------------------------------------------------------- the same numbers


def same_numbers(model, *, x: np.ndarray | None = None) -> bool:
    """Whether the respelled graph gives what the canonical one gives, with and without integer kernels."""
    x = images(model) if x is None else x
    respelled = lower_for_cpu(model)
    onnx.checker.check_model(respelled, full_check=True)
    expected = outputs(model, x, fuse_int8=False)
    near = 1e-5 * np.abs(expected).max()
    return all(
        np.allclose(outputs(respelled, x, fuse_int8=fused), expected, atol=near) for fused in (True, False)
    )


@pytest.mark.parametrize("bias", [None, np.arange(-2, 6, dtype=np.float32)], ids=["no bias", "bias"])
def test_a_convolution_whose_weights_fit_gives_the_same_numbers(bias):
    assert same_numbers(convolution(quiet(8, 16, 1, 1), bias=bias))


@pytest.mark.parametrize(("op", "transposed"), [("Gemm", 1), ("Gemm", 0), ("MatMul", 0)])
def test_a_linear_layer_whose_weights_fit_gives_the_same_numbers(op, transposed):
    assert same_numbers(linear(quiet(8, 30), op=op, transposed=transposed))


@pytest.mark.parametrize(
    "attributes",
    [{"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}, {"group": 2}],
    ids=["strides", "padding", "groups"],
)
def test_what_is_more_than_a_matrix_product_keeps_its_numbers(attributes):
    assert same_numbers(convolution(extremes(8, 16)[:, :, None, None], **attributes))


@pytest.mark.parametrize("pads", [0, 1])
def test_a_3x3_convolution_keeps_its_numbers_in_uint8(pads):
    model = convolution(extremes(8, 16 * 9).reshape(8, 16, 3, 3), pads=[pads] * 4)
    assert same_numbers(model)
    constants = constants_of(lower_for_cpu(model))
    assert not [name for name, array in constants.items() if array.dtype == np.int8]


def network(middle, *, y: list[int], constants=None) -> onnx.ModelProto:
    """x -> convolution `a`, whose output is `h` -> the nodes of `middle` -> y."""
    constants = SHARED | weight_constants("a", quiet(8, 8, 1, 1)) | (constants or {})
    nodes = [
        *activation_pair("x"),
        *weight_pair("a"),
        helper.make_node("Conv", ["x_dq", "a"], ["h"]),
        *middle,
    ]
    return graph_of(nodes, constants, x=[8, SIDE_PX, SIDE_PX], y=y)


def node(op: str, *reads: str, makes: str = "y", **attributes):
    return helper.make_node(op, list(reads), [makes], **attributes)


MAP = [8, SIDE_PX, SIDE_PX]
SECOND = [*activation_pair("s"), *weight_pair("b"), node("Conv", "s_dq", "b")]
B = weight_constants("b", quiet(8, 8, 1, 1))
AROUND = {
    "swish": ([node("Sigmoid", "h", makes="g"), node("Mul", "h", "g")], {}),
    "a sum with a map that is channels first": ([node("Add", "h", "x")], {}),
    "a residual sum between two products": ([node("Add", "h", "h", makes="s"), *SECOND], B),
    "clipping to constants": (
        [node("Clip", "h", "low", "high")],
        {"low": np.float32(0), "high": np.float32(1)},
    ),
    "clipping without a lower end": ([node("Clip", "h", "", "high")], {"high": np.float32(1)}),
    "a factor for each channel": ([node("Mul", "h", "f")], {"f": np.arange(8, dtype="f4").reshape(8, 1, 1)}),
    "a number": ([node("Mul", "h", "f")], {"f": np.full((1, 1, 1), 3, np.float32)}),
    "an output that is read on": ([node("Relu", "h"), node("Relu", "y", makes="unread")], {}),
    "a pooling": ([node("GlobalAveragePool", "h", makes="p"), node("Mul", "h", "p")], {}),
    "a product of what a pooling made": (
        [node("MaxPool", "h", makes="s", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), *SECOND],
        B,
    ),
    "two products of one tensor": (
        [*weight_pair("b"), node("Conv", "x_dq", "b", makes="k"), node("Sub", "h", "k")],
        B,
    ),
    "two products of one tensor in different steps": (
        [
            node("QuantizeLinear", "x", "wide", "zero", makes="x_wide_q"),
            node("DequantizeLinear", "x_wide_q", "wide", "zero", makes="x_wide"),
            *weight_pair("b"),
            node("Conv", "x_wide", "b", makes="k"),
            node("Sub", "h", "k"),
        ],
        B | {"wide": 4 * STEP},
    ),
    "two products of one weight": (
        [*activation_pair("h"), node("Conv", "h_dq", "a")],
        {},
    ),
    "a product and another reader of what is quantized": (
        [*weight_pair("b"), node("Conv", "x_dq", "b", makes="k"), node("Add", "k", "x_dq")],
        B,
    ),
}


@pytest.mark.parametrize("case", AROUND)
def test_what_stands_around_products_gives_the_same_numbers(case):
    middle, constants = AROUND[case]
    assert same_numbers(network(middle, y=MAP, constants=constants))


def test_maps_stay_channels_last_through_activation_and_sum_until_a_convolution_reads_them():
    depthwise = node("Conv", "r", "d", group=8, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    middle = [node("Add", "h", "h", makes="s"), node("Relu", "s", makes="r"), depthwise]
    respelled = lower_for_cpu(network(middle, y=MAP, constants={"d": np.ones((8, 1, 3, 3), np.float32)}))
    assert [each.op_type for each in respelled.graph.node if each.op_type not in ("Reshape", "Gemm")] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "Transpose",
        "DequantizeLinear",
        "DequantizeLinear",
        "Add",
        "Relu",
        "Transpose",
        "Conv",
    ]


def centred(centre: float, values: np.ndarray) -> onnx.ModelProto:
    """The product of x, known to be around the centre, written as quantize.qdq writes it."""
    scales = weight_constants("w", values)["w_scales"]
    shift = centre * scales * values.reshape(len(values), -1).sum(axis=1)
    model = convolution(values, bias=shift.astype(np.float32))
    nodes = [node("Add", "x", "c", makes="x_c"), *activation_pair("x_c")]
    nodes += [
        each for each in model.graph.node if each.op_type != "QuantizeLinear" and each.output[0] != "x_dq"
    ]
    nodes[-1].input[0] = "x_c_dq"
    constants = constants_of(model) | {"c": np.float32(-centre)}
    return graph_of(
        nodes, constants, x=[values.shape[1], SIDE_PX, SIDE_PX], y=[len(values), SIDE_PX, SIDE_PX]
    )


def test_a_centre_becomes_the_zero_point():
    centre = 100 * float(STEP)
    model = centred(centre, quiet(8, 16, 1, 1))
    respelled = lower_for_cpu(model)
    (quantize,) = (each for each in respelled.graph.node if each.op_type == "QuantizeLinear")
    assert constants_of(respelled)[quantize.input[2]] == 28
    assert "Add" not in Counter(each.op_type for each in respelled.graph.node)
    # Away from the ends of the range, where the two roundings of the centre differ.
    x = centre + np.clip(images(model), -120 * STEP, 120 * STEP)
    x = (np.rint(x / STEP) * STEP).astype(np.float32)
    assert same_numbers(model, x=x)


def test_coarser_weights_don_t_shift_what_a_centred_activation_contributes():
    """Its centre is far from where its values are: what the weights' rounding does to it would be a bias."""
    centre = 60.0
    values = np.random.default_rng(3).normal(0, 35, (8, 256, 1, 1)).clip(-127, 127).round()
    model = centred(centre * float(STEP), values)
    x = np.abs(np.random.default_rng(4).normal(0, 4 * STEP, (4, 256, SIDE_PX, SIDE_PX))).astype(np.float32)
    expected = outputs(model, x, fuse_int8=False)
    assert sqnr_db(outputs(lower_for_cpu(model), x, fuse_int8=False), expected) > 30


@pytest.mark.parametrize(
    ("step", "offset", "expected"),
    [
        (1.0, 0.0, (1.0, 128)),
        (0.5, -50.0, (0.5, 28)),
        (0.5, 63.5, (0.5, 255)),
        (0.5, -64.0, (0.5, 0)),
        # int8 holds 20 - 12.8 .. 20 + 12.7; with zero that is 0 .. 32.7.
        (0.1, -20.0, (32.7 / 255, 0)),
        (0.1, 20.0, (32.8 / 255, 255)),
    ],
)
def test_uint8_holds_what_int8_held_and_zero(step, offset, expected):
    found_step, zero_point = uint8_quantization(step, offset)
    assert (pytest.approx(found_step), zero_point) == expected


def test_constants_behind_nodes_are_found():
    """As torch's exporters leave them: a bias that two layers share, and the ends of Clip."""
    model = convolution(quiet(8, 16, 1, 1), bias=np.arange(-3, 5, dtype=np.float32))
    product = model.graph.node.pop()
    product.input[2], product.output[0] = "same", "h"
    high = numpy_helper.from_array(np.float32(0.5))
    model.graph.node.insert(0, node("Identity", "b", makes="same"))
    model.graph.node.extend(
        [product, node("Constant", makes="high", value=high), node("Clip", "h", "", "high")]
    )
    assert same_numbers(model)
    kinds = Counter(each.op_type for each in lower_for_cpu(model).graph.node)
    assert kinds["Gemm"] == 1
    assert not kinds.keys() & {"Conv", "Constant", "Identity"}


def test_a_bias_that_is_computed_leaves_the_product_as_it_is():
    model = convolution(quiet(8, 16, 1, 1), bias=np.arange(-3, 5, dtype=np.float32))
    model.graph.node[-1].input[2] = "twice"
    model.graph.node.insert(0, node("Add", "b", "b", makes="twice"))
    assert same_numbers(model)


def test_a_constant_that_is_an_output_stays_one():
    model = graph_of([node("Identity", "c")], {"c": np.ones((1, 2), np.float32)}, x=[1], y=[2])
    assert to_bytes(inline_constants(model)) == to_bytes(model)


def test_the_model_that_is_given_stays_as_it_is():
    model = network(*[AROUND["two products of one tensor"][0]], y=MAP, constants=B)
    before = to_bytes(model)
    lower_for_cpu(model)
    assert to_bytes(model) == before
