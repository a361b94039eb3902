"""Rewriting ONNX graphs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.onnx_tools.rewriter import GraphEdit


@pytest.fixture
def model():
    """y = relu(x + c)."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "c"], ["sum"]), helper.make_node("Relu", ["sum"], ["y"])],
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
            [numpy_helper.from_array(np.ones(2, np.float32), "c")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def test_keeping_every_node_changes_nothing(model):
    edit = GraphEdit(model)
    for node in edit.source:
        edit.keep(node)
    assert edit.finish() == model


def test_the_original_is_left_alone(model):
    before = model.SerializeToString()
    edit = GraphEdit(model)
    edit.source[0].input[1] = "x"
    edit.keep(edit.source[0])
    edit.keep(edit.source[1])
    edit.finish()
    assert model.SerializeToString() == before


def test_names_that_are_taken_are_not_taken_again(model):
    edit = GraphEdit(model)
    assert edit.constant("new", np.zeros(2, np.float32)) == "new"
    taken = [edit.constant(name, np.zeros(2, np.float32)) for name in ("x", "c", "sum", "new")]
    assert not {"x", "c", "sum", "new"} & set(taken)
    assert len(set(taken)) == 4


def test_what_nobody_reads_is_left_out(model):
    edit = GraphEdit(model)
    edit.keep(edit.source[0])
    half = edit.constant("half", np.full(2, 0.5, np.float32))
    edit.node("Mul", ["x", half], "y", replaces=True)
    rewritten = edit.finish()
    assert [node.op_type for node in rewritten.graph.node] == ["Mul"]
    assert [tensor.name for tensor in rewritten.graph.initializer] == ["half"]
    onnx.checker.check_model(rewritten, full_check=True)
