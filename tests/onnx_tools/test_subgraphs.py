"""What only the body of an If reads from the graph around it survives every rewrite."""

import numpy as np
import onnx
import pytest
from handmade_graphs import graph_of, ranges_of, run_unfused, weight
from onnx import TensorProto, helper

from deploykit.data.preprocessing import Preprocessing
from deploykit.engine.lowering.cpu_int8 import lower_for_cpu
from deploykit.engine.lowering.rtx_int8 import lower_for_rtx
from deploykit.onnx_tools.inline_constants import inline_constants
from deploykit.onnx_tools.uint8_input import with_uint8_input, without_uint8_input
from deploykit.quantize.placement import place_int8
from deploykit.quantize.qdq import insert_qdq

SHAPE = (3, 4, 4)


def body(name: str, *reads: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Mul", list(reads), [name])], name, [], [output])


@pytest.fixture
def model():
    """y = h * factor if flag else h * x, where h = conv(x) and only the bodies read `factor`."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Identity", ["constant"], ["factor"]),
        helper.make_node(
            "If", ["flag"], ["y"], then_branch=body("a", "h", "factor"), else_branch=body("b", "h", "x")
        ),
    ]
    constants = {"w": weight(3, 3, 1, 1), "constant": np.float32(2), "flag": np.array(1, bool)}
    return graph_of(nodes, constants, takes={"x": SHAPE}, gives={"y": SHAPE})


def quantized(model):
    return insert_qdq(model, place_int8(model, "all-conv"), ranges_of({"x": 1.0}))


def without_a_trace(model):
    preprocessing = Preprocessing(side_px=4)
    return without_uint8_input(with_uint8_input(model, preprocessing))


@pytest.mark.parametrize(
    "rewrite",
    [
        inline_constants,
        quantized,
        lambda model: lower_for_rtx(quantized(model), sm=75),
        lambda model: lower_for_rtx(quantized(model), sm=89),
        lambda model: lower_for_cpu(quantized(model)),
        without_a_trace,
    ],
    ids=["inline constants", "Q/DQ", "Turing", "RTX", "CPU", "uint8 input"],
)
@pytest.mark.parametrize("flag", [True, False])
def test_what_a_subgraph_reads_survives(model, rewrite, flag):
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.array(flag), "flag"))
    x = np.random.default_rng(0).integers(-127, 128, (2, *SHAPE)).astype(np.float32) / 127
    (expected,) = run_unfused(model, {"x": x})
    rewritten = rewrite(model)
    onnx.checker.check_model(rewritten)
    (actual,) = run_unfused(rewritten, {"x": x})
    np.testing.assert_allclose(actual, expected, atol=0.05)


@pytest.mark.parametrize("flag", [True, False])
def test_a_subgraph_that_reads_the_input_reads_the_normalized_images(model, flag):
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.array(flag), "flag"))
    preprocessing = Preprocessing(side_px=4)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    (expected,) = run_unfused(model, {"x": preprocessing.normalize(pixels)})
    (actual,) = run_unfused(with_uint8_input(model, preprocessing), {"x": pixels})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
