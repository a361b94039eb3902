import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from deploykit.errors import DeployError
from deploykit.model_file import read_model, to_bytes
from deploykit.quantize.histogram import Histogram
from deploykit.quantize.placement import pointwise
from deploykit.quantize.qdq import insert_qdq, scales_for
from deploykit.quantize.ranges import Ranges
from deploykit.sessions import cpu_session


def ranges_of(**amax: float) -> Ranges:
    histograms = {}
    for name, value in amax.items():
        histograms[name] = Histogram()
        histograms[name].add(np.array([value], np.float32))
    return Ranges(
        onnx_sha256="", method="max", percentile=100, source="by hand", images=1, histograms=histograms
    )


def model_of(nodes, outputs, **weights):
    """A graph from elsewhere: its nodes have no names."""
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, 4, 4])
            for name, channels in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def quantized(model, **amax: float):
    return insert_qdq(model, pointwise(model), ranges_of(**amax))


def constants_of(model) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def operations(model) -> list[str]:
    return [node.op_type for node in model.graph.node]


def column(*values: float) -> np.ndarray:
    """The weight of a 1x1 convolution, (outputs, 2, 1, 1)."""
    return np.array(values, np.float32).reshape(-1, 2, 1, 1)


@pytest.fixture
def one_convolution():
    return model_of(
        [helper.make_node("Conv", ["x", "w"], ["y"])], {"y": 2}, w=column(1.27, -0.635, 0.25, -0.0625)
    )


@pytest.mark.parametrize("amax", [0.0, 1e-45, 1e-30, 1e-8, 6e-8, 1e-3, 1.0, 254.0, 1e4, 8.3e6])
def test_scales_are_positive_finite_and_exact_in_fp16(amax):
    (scale,) = scales_for([amax])
    assert scale.dtype == np.float32
    assert 0 < scale < np.inf
    assert np.float32(np.float16(scale)) == scale
    # FP16 has 11 significant bits, and steps of 2^-24 under 2^-14; the scale is the next one up.
    assert scale >= amax / 127
    assert scale == pytest.approx(amax / 127, rel=2**-10, abs=2**-24)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("amax", [8.4e6, 1e30, 3.4e38])
def test_the_scale_of_a_huge_range_is_finite(amax):
    assert np.isfinite(scales_for([amax])).all()


@settings(max_examples=60, deadline=None)
@given(
    values=arrays.arrays(np.float32, 32, elements=st.floats(-1, 1, width=32)),
    amax=st.floats(2**-6, 1e4, width=32),
)
def test_within_the_range_quantization_moves_nothing_by_more_than_half_a_step(values, amax):
    (scale,) = scales_for([amax])
    # Rounding the scale to FP16 moves the edge of the range by at most one part in 2^11; these scales are
    # no subnormals, which move it further.
    x = (values * np.float32(amax * (1 - 2**-11))).reshape(1, 2, 4, 4)
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"y": 2}, w=column(1, 0, 0, 1))
    graph = quantized(model, x=amax)
    graph.graph.output.append(helper.make_empty_tensor_value_info("x.dequantized"))
    (result,) = cpu_session(to_bytes(graph), fuse_int8=False).run(["x.dequantized"], {"x": x})
    assert np.abs(result - x).max() <= scale / 2 * (1 + 1e-4)


def test_beyond_the_range_values_are_clipped(one_convolution):
    graph = quantized(one_convolution, x=2.54)
    graph.graph.output.append(helper.make_empty_tensor_value_info("x.dequantized"))
    x = np.full((1, 2, 4, 4), 1000, np.float32)
    x[0, 1] = -1000
    (result,) = cpu_session(to_bytes(graph), fuse_int8=False).run(["x.dequantized"], {"x": x})
    # 2.54 / 127 is 0.02; int8 goes from -128 to 127.
    assert result[0, :, 0, 0] == pytest.approx([2.54, -2.56], rel=1e-3)


def test_weights_are_quantized_by_output_channel_as_by_hand(one_convolution):
    constants = constants_of(quantized(one_convolution, x=1))
    # Channel 0: 1.27 / 127 = 0.01, so 127 and -63.5, whose scale FP16 rounds up to 0.010002, so -63.
    # Channel 1: 0.25 / 127, so 127 and -31.75, which rounds to -32.
    np.testing.assert_array_equal(constants["w.quantized"].reshape(2, 2), [[127, -63], [127, -32]])
    np.testing.assert_allclose(constants["w.scale"], [0.01, 0.25 / 127], rtol=2**-10)
    assert constants["w.quantized"].dtype == np.int8
    assert "w" not in constants


def test_every_zero_point_is_an_int8_zero(random_b0):
    model = read_model(random_b0.path)
    placement = pointwise(model)
    graph = insert_qdq(model, placement, ranges_of(**{node.activation: 4.0 for node in placement}))
    constants = constants_of(graph)
    points = [
        constants[node.input[2]]
        for node in graph.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(points) == 3 * 33  # two for an activation, one for a weight
    assert {point.dtype for point in points} == {np.dtype(np.int8)}
    assert not any(point.any() for point in points)


def test_a_whole_network_passes_onnx_own_checker(random_b0):
    model = read_model(random_b0.path)
    placement = pointwise(model)
    graph = insert_qdq(model, placement, ranges_of(**{node.activation: 4.0 for node in placement}))
    onnx.checker.check_model(graph, full_check=True)
    assert "QuantizeLinear" not in operations(model), "the model given is left as it was"
    quantized_weights = [node.weight for node in placement]
    assert not {tensor.name for tensor in graph.graph.initializer} & set(quantized_weights)


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e4])
def test_a_channel_of_any_magnitude_gives_a_valid_graph(weight):
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"y": 2}, w=column(weight, 0, 1, 1))
    graph = quantized(model, x=1)
    onnx.checker.check_model(graph, full_check=True)
    (y,) = cpu_session(to_bytes(graph), fuse_int8=False).run(None, {"x": np.ones((1, 2, 4, 4), np.float32)})
    assert y[0, :, 0, 0] == pytest.approx([weight, 2], rel=0.01, abs=1e-5)


def test_nodes_without_names_are_found_by_what_they_make():
    model = model_of(
        [
            helper.make_node("Conv", ["x", "a"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Conv", ["r", "b"], ["y"]),
        ],
        {"y": 1},
        a=column(1, 1, 1, -1),
        b=column(1, 1),
    )
    graph = quantized(model, x=1, r=2)
    onnx.checker.check_model(graph, full_check=True)
    assert operations(graph) == [
        *("QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"),
        "Relu",
        *("QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"),
    ]


def test_an_activation_that_two_nodes_read_is_quantized_once():
    model = model_of(
        [helper.make_node("Conv", ["x", "a"], ["y"]), helper.make_node("Conv", ["x", "b"], ["z"])],
        {"y": 2, "z": 1},
        a=column(1, 1, 1, -1),
        b=column(1, 1),
    )
    graph = quantized(model, x=1)
    onnx.checker.check_model(graph, full_check=True)
    assert operations(graph).count("QuantizeLinear") == 1
    first, second = (node.input[0] for node in graph.graph.node if node.op_type == "Conv")
    assert first == second == "x.dequantized"


def test_a_weight_that_two_nodes_read_is_quantized_once():
    model = model_of(
        [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])],
        {"y": 2},
        w=column(1, 1, 1, -1),
    )
    graph = quantized(model, x=1, h=2)
    onnx.checker.check_model(graph, full_check=True)
    assert operations(graph).count("DequantizeLinear") == 2 + 1


def test_other_readers_of_an_activation_get_it_unquantized():
    model = model_of(
        [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Add", ["x", "h"], ["y"])],
        {"y": 2},
        w=column(1, 0, 0, 1),
    )
    (add,) = (node for node in quantized(model, x=1).graph.node if node.op_type == "Add")
    assert list(add.input) == ["x", "h"]


def test_a_classifier_written_as_matmul_is_quantized_by_column():
    model = model_of(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        {},
        w=np.tile(np.array([1.27, 0.25], np.float32), (32, 1)),
    )
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2]))
    graph = quantized(model, f=1)
    onnx.checker.check_model(graph, full_check=True)
    np.testing.assert_allclose(constants_of(graph)["w.scale"], [0.01, 0.25 / 127], rtol=2**-10)


def test_a_missing_range_is_named(one_convolution):
    with pytest.raises(DeployError, match="The ranges know nothing of x"):
        quantized(one_convolution, other=1)


def test_a_weight_stays_for_the_nodes_that_read_it_in_floating_point():
    model = model_of(
        [
            helper.make_node("Conv", ["x", "w"], ["h"]),
            helper.make_node("GlobalAveragePool", ["h"], ["p"]),
            helper.make_node("Conv", ["p", "w"], ["s"]),
            helper.make_node("Mul", ["h", "s"], ["y"]),
        ],
        {"y": 2},
        w=column(1, 1, 1, -1),
    )
    onnx.checker.check_model(quantized(model, x=1), full_check=True)


def test_a_name_that_the_graph_has_already_is_not_taken_again():
    model = model_of(
        [
            helper.make_node("Relu", ["x"], ["x.scale"]),
            helper.make_node("Conv", ["x", "w"], ["h"]),
            helper.make_node("Add", ["h", "x.scale"], ["y"]),
        ],
        {"y": 2},
        w=column(1, 1, 1, -1),
    )
    onnx.checker.check_model(quantized(model, x=1), full_check=True)
