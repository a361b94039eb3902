import numpy as np
import pytest
from handmade_graphs import graph_of, weight
from onnx import helper, numpy_helper

from deploykit.quantize.graph_facts import GraphFacts


def facts_of(nodes, constants=None, *, shape=(4, 8, 8)) -> GraphFacts:
    return GraphFacts(graph_of(nodes, constants or {}, takes={"x": shape}, gives={"y": None}))


def node_of(op: str, *reads: str, **attributes):
    return helper.make_node(op, list(reads), ["y"], **attributes)


MATRIX, KERNEL = weight(4, 4), weight(4, 4, 1, 1)


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (node_of("Conv", "x", "w"), {"w": KERNEL}),
        (node_of("Conv", "x", "w", "b", group=2), {"w": weight(4, 2, 3, 3), "b": weight(4)}),
        (node_of("Gemm", "x", "w"), {"w": MATRIX}),
        (node_of("Gemm", "x", "w", "b", transB=1, alpha=1.0, beta=1.0), {"w": MATRIX, "b": weight(4)}),
        (node_of("MatMul", "x", "w"), {"w": MATRIX}),
    ],
    ids=["convolution", "with groups and bias", "Gemm", "Gemm transposed", "MatMul"],
)
def test_constant_weights_make_a_product(node, constants):
    assert [each.output[0] for each in facts_of([node], constants).products()] == ["y"]


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (node_of("Conv", "x", "x"), {}),
        (node_of("MatMul", "x", "x"), {}),
        (node_of("MatMul", "w", "x"), {"w": MATRIX}),
        (node_of("Conv", "x", "w"), {"w": weight(4, 4, 3)}),
        (node_of("MatMul", "x", "w"), {"w": weight(4)}),
        (node_of("Gemm", "x", "w", alpha=0.5), {"w": MATRIX}),
        (node_of("Gemm", "x", "w", "b", beta=2.0), {"w": MATRIX, "b": weight(4)}),
        (node_of("Gemm", "x", "w", transA=1), {"w": MATRIX}),
        (node_of("ConvTranspose", "x", "w"), {"w": KERNEL}),
        (node_of("Relu", "x"), {}),
    ],
    ids=[
        "weight computed",
        "product of activations",
        "constant first",
        "one-dimensional convolution",
        "vector",
        "alpha",
        "beta",
        "transposed activation",
        "transposed convolution",
        "no product",
    ],
)
def test_nothing_else_is_a_product(node, constants):
    assert not list(facts_of([node], constants).products())


@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ({}, False),
        ({"pads": [0, 0, 0, 0]}, False),
        ({"pads": [1, 1, 1, 1]}, True),
        ({"pads": [0, 0, 1, 1]}, True),
        ({"auto_pad": "NOTSET"}, False),
        ({"auto_pad": "SAME_UPPER"}, True),
        ({"auto_pad": "SAME_LOWER"}, True),
    ],
    ids=str,
)
def test_a_convolution_that_surrounds_its_input_with_zeros_is_known(attributes, pads):
    node = node_of("Conv", "x", "w", **attributes)
    assert facts_of([node], {"w": weight(4, 4, 3, 3)}).pads(node) is pads


@pytest.mark.parametrize(
    ("node", "constants", "free"),
    [
        (node_of("Conv", "x", "w"), {}, True),
        (node_of("Conv", "x", "w", "b"), {"b": weight(4)}, True),
        (node_of("Conv", "x", "w", "b"), {}, False),  # b is computed
        (node_of("Gemm", "x", "w"), {}, True),
        (node_of("Gemm", "x", "w", "b"), {"b": weight(4)}, True),
        (node_of("Gemm", "x", "w", "b"), {"b": weight(1, 4)}, False),
        (node_of("Gemm", "x", "w", "b"), {"b": weight(2, 4)}, False),
        (node_of("MatMul", "x", "w"), {}, False),
    ],
    ids=[
        "no bias",
        "bias",
        "computed bias",
        "Gemm without",
        "Gemm with",
        "a row",
        "a matrix",
        "MatMul has none",
    ],
)
def test_a_bias_takes_up_a_constant_where_it_is_one_or_none(node, constants, free):
    assert facts_of([node], {"w": MATRIX, **constants}).has_free_bias(node) is free


@pytest.mark.parametrize(
    ("node", "shape", "macs"),
    [
        # 8 x 8 places, 4 inputs, 6 outputs.
        (node_of("Conv", "x", "w"), (6, 4, 1, 1), 8 * 8 * 4 * 6),
        # Stride 2, 3x3, no padding: 3 x 3 places.
        (node_of("Conv", "x", "w", strides=[2, 2]), (6, 4, 3, 3), 3 * 3 * 9 * 4 * 6),
        (node_of("Conv", "x", "w", group=4, pads=[1, 1, 1, 1]), (4, 1, 3, 3), 8 * 8 * 9 * 4),
        (node_of("Conv", "x", "w", group=2, auto_pad="SAME_UPPER"), (4, 2, 5, 5), 8 * 8 * 25 * 2 * 4),
    ],
    ids=["pointwise", "strided", "depthwise", "in groups"],
)
def test_the_work_of_a_convolution_is_that_by_hand(node, shape, macs):
    facts = facts_of([node], {"w": weight(*shape)})
    assert facts.macs(node) == facts.total_macs == macs


@pytest.mark.parametrize(("op", "options"), [("Gemm", {"transB": 0}), ("Gemm", {}), ("MatMul", {})])
def test_the_work_of_a_linear_layer_is_its_weight_once(op, options):
    flatten = helper.make_node("Flatten", ["x"], ["f"])
    layer = node_of(op, "f", "w", **options)
    assert facts_of([flatten, layer], {"w": weight(256, 10)}).total_macs == 2560


def test_the_work_of_a_whole_model_is_that_of_its_products():
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        node_of("Gemm", "f", "w"),
    ]
    assert facts_of(nodes, {"k": weight(6, 4, 1, 1), "w": weight(6, 10)}).total_macs == 8 * 8 * 24 + 60


def squeeze_excite(pool: str, **options) -> list:
    return [
        helper.make_node(pool, ["x"], ["p"], **options),
        helper.make_node("Conv", ["p", "k"], ["s"]),
        helper.make_node("Clip", ["s", "low", "high"], ["r"]),
        helper.make_node("Conv", ["r", "k"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["gate"]),
        helper.make_node("Mul", ["x", "gate"], ["y"]),
    ]


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "GlobalMaxPool", "ReduceMean"])
def test_what_is_computed_from_pooled_tensors_alone_is_pooled(pool):
    facts = facts_of(squeeze_excite(pool), {"k": KERNEL, "low": np.float32(0), "high": np.float32(6)})
    assert facts.pooled == {"p", "s", "r", "e", "gate"}


def test_constants_may_be_nodes():
    limits = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.float32(value)))
        for name, value in (("low", 0), ("high", 6))
    ]
    assert "gate" in facts_of([*limits, *squeeze_excite("ReduceMean")], {"k": KERNEL}).pooled


@pytest.mark.parametrize(
    ("reads", "position"), [(("x", "gate"), 0), (("gate", "x"), 1)], ids=["gate last", "gate first"]
)
def test_the_feature_map_of_a_gate_is_found_on_either_side(reads, position):
    nodes = squeeze_excite("GlobalAveragePool")[:-1]
    mul = node_of("Mul", *reads)
    facts = facts_of([*nodes, mul], {"k": KERNEL, "low": np.float32(0), "high": np.float32(6)})
    assert facts.gated_input(mul) == position
    assert [pool.output[0] for pool in facts.pools_of("x")] == ["p"]


@pytest.mark.parametrize(
    "node",
    [
        node_of("Mul", "x", "x"),  # as Swish is written
        node_of("Mul", "p", "p"),
        node_of("Mul", "x", "c"),
        node_of("Mul", "p", "c"),
        node_of("Add", "x", "p"),
    ],
    ids=["two maps", "two gates", "a constant", "a gate and a constant", "no multiplication"],
)
def test_other_multiplications_are_no_gates(node):
    pool = helper.make_node("GlobalAveragePool", ["x"], ["p"])
    assert facts_of([pool, node], {"c": np.float32(2)}).gated_input(node) is None


@pytest.mark.parametrize(
    ("node", "residual"),
    [
        (node_of("Add", "x", "r"), True),
        (node_of("Add", "x", "x"), True),
        (node_of("Add", "x", "c"), False),
        (node_of("Add", "made", "x"), False),
        (node_of("Add", "x", "p"), False),
        (node_of("Add", "p", "p"), False),
        (node_of("Sub", "x", "r"), False),
    ],
    ids=["two maps", "one twice", "a constant", "a constant node", "a pooled one", "two pooled", "no sum"],
)
def test_a_residual_adds_two_feature_maps(node, residual):
    nodes = [
        helper.make_node("Constant", [], ["made"], value=numpy_helper.from_array(np.float32(1))),
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Relu", ["x"], ["r"]),
        node,
    ]
    assert facts_of(nodes, {"c": np.float32(2)}).is_residual(node) is residual
