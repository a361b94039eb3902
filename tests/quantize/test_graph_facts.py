import numpy as np
import pytest
from handmade_graphs import graph_of, weight
from onnx import helper, numpy_helper

from deploykit.quantize.graph_facts import GraphFacts


def facts_of(nodes, constants=None, *, shape=(4, 8, 8)) -> GraphFacts:
    return GraphFacts(graph_of(nodes, constants or {}, takes={"x": shape}, gives={"y": None}))


def node_of(op: str, *reads: str, **attributes):
    return helper.make_node(op, list(reads), ["y"], **attributes)


KERNEL = weight(4, 4, 1, 1)


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
