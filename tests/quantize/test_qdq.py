import numpy as np
import onnx
import pytest
from handmade_graphs import constants_of, graph_of, ranges_of, run_unfused
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper
from refusals import refuses

from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.placement import POLICIES, place_int8
from deploykit.quantize.qdq import activation_steps, fp16_scales, insert_qdq


def model_of(nodes, outputs, **weights):
    gives = {name: (channels, 4, 4) for name, channels in outputs.items()}
    return graph_of(nodes, weights, takes={"x": (2, 4, 4)}, gives=gives)


def quantized(model, policy="all-conv", /, **bounds):
    return insert_qdq(model, place_int8(model, policy), ranges_of(bounds))


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
    (scale,) = fp16_scales([amax])
    assert scale.dtype == np.float32
    assert 0 < scale < np.inf
    assert np.float32(np.float16(scale)) == scale
    # FP16 has 11 significant bits, and steps of 2^-24 under 2^-14; the scale is the next one up.
    assert scale >= amax / 127
    assert scale == pytest.approx(amax / 127, rel=2**-10, abs=2**-24)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("amax", [8.4e6, 1e30, 3.4e38])
def test_the_scale_of_a_huge_range_is_finite(amax):
    assert np.isfinite(fp16_scales([amax])).all()


@settings(max_examples=60, deadline=None)
@given(
    values=arrays.arrays(np.float32, 32, elements=st.floats(-1, 1, width=32)),
    amax=st.floats(2**-6, 1e4, width=32),
)
def test_within_the_range_quantization_moves_nothing_by_more_than_half_a_step(values, amax):
    (scale,) = fp16_scales([amax])
    x = (values * np.float32(amax)).reshape(1, 2, 4, 4)
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"y": 2}, w=column(1, 0, 0, 1))
    (result,) = run_unfused(quantized(model, x=amax), {"x": x}, "x.dequantized")
    assert np.abs(result - x).max() <= scale / 2 * (1 + 1e-4)


def test_beyond_the_range_values_are_clipped(one_convolution):
    x = np.full((1, 2, 4, 4), 1000, np.float32)
    x[0, 1] = -1000
    (result,) = run_unfused(quantized(one_convolution, x=2.54), {"x": x}, "x.dequantized")
    # 2.54 / 127 is 0.02; int8 goes from -128 to 127.
    assert result[0, :, 0, 0] == pytest.approx([2.54, -2.56], rel=1e-3)


def test_weights_are_quantized_by_output_channel_as_by_hand(one_convolution):
    constants = constants_of(quantized(one_convolution, x=1))
    # Channel 0: 1.27 / 127 = 0.01, so 127 and -63.5, whose scale FP16 rounds up to 0.010002, so -63.
    # Channel 1: 0.25 / 127, so 127 and -31.75, which rounds to -32.
    np.testing.assert_array_equal(constants["y.weight_quantized"].reshape(2, 2), [[127, -63], [127, -32]])
    np.testing.assert_allclose(constants["y.weight_scale"], [0.01, 0.25 / 127], rtol=2**-10)
    assert constants["y.weight_quantized"].dtype == np.int8
    assert constants["y.weight_quantized"].shape == (2, 2, 1, 1)
    assert "w" not in constants


@settings(max_examples=60, deadline=None)
@given(
    weight=arrays.arrays(np.float32, (3, 2, 1, 1), elements=st.floats(-8, 8, width=32)),
)
def test_weights_are_within_half_a_step_of_themselves(weight):
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"y": 3}, w=weight)
    constants = constants_of(quantized(model, x=1))
    values, scales = constants["y.weight_quantized"], constants["y.weight_scale"].reshape(3, 1, 1, 1)
    assert np.abs(values.astype(int)).max() <= 127, "-128 would be further from zero than the range"
    assert (np.abs(values * scales - weight) <= scales / 2 * (1 + 1e-4)).all()


def test_weights_beyond_what_int8_and_fp16_hold_are_clipped_alike_on_both_sides():
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"y": 1}, w=column(-1e9, 1e9))
    constants = constants_of(quantized(model, x=1))
    assert constants["y.weight_scale"] == 65504
    np.testing.assert_array_equal(constants["y.weight_quantized"].ravel(), [-127, 127])


@pytest.mark.parametrize("policy", POLICIES)
def test_every_zero_point_is_an_int8_zero(random_b0, policy):
    model = read_model(random_b0.path)
    placement = place_int8(model, policy)
    graph = insert_qdq(model, placement, ranges_of(dict.fromkeys(placement.tensors, (-0.3, 4.0))))
    constants = constants_of(graph)
    points = [
        constants[node.input[2]]
        for node in graph.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    # Two for an activation, one for a weight.
    assert len(points) == 2 * len(placement.tensors) + len(placement.products)
    assert {point.dtype for point in points} == {np.dtype(np.int8)}
    assert not any(point.any() for point in points)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_whole_network_passes_onnx_own_checker(random_b0, policy):
    model = read_model(random_b0.path)
    before = model.SerializeToString()
    placement = place_int8(model, policy)
    graph = insert_qdq(model, placement, ranges_of(dict.fromkeys(placement.tensors, (-0.3, 4.0))))
    onnx.checker.check_model(graph, full_check=True)
    assert model.SerializeToString() == before, "the model given is left as it was"
    quantized_weights = {node.weight for node in placement.products}
    assert not {tensor.name for tensor in graph.graph.initializer} & quantized_weights


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e4])
def test_a_channel_of_any_magnitude_gives_a_valid_graph(weight):
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"y": 2}, w=column(weight, 0, 1, 1))
    graph = quantized(model, x=1)
    onnx.checker.check_model(graph, full_check=True)
    (y,) = run_unfused(graph, {"x": np.ones((1, 2, 4, 4), np.float32)})
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


def test_a_weight_that_two_nodes_read_is_quantized_for_each_the_way_it_is_laid_out():
    """Its output channels are its rows for one of them, and its columns for the other."""
    weight = np.array([[1.27, 0.5], [0.25, -0.0625]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "w"], ["y"], transB=1),
        helper.make_node("MatMul", ["m", "w"], ["z"]),
    ]
    model = graph_of(
        nodes, {"w": weight, "axes": np.array([2, 3])}, takes={"x": (2, 4, 4)}, gives={"y": (2,), "z": (2,)}
    )
    graph = quantized(model, "pointwise", m=1)
    onnx.checker.check_model(graph, full_check=True)
    constants = constants_of(graph)
    np.testing.assert_allclose(constants["y.weight_scale"], np.array([1.27, 0.25]) / 127, rtol=2**-10)
    np.testing.assert_allclose(constants["z.weight_scale"], np.array([1.27, 0.5]) / 127, rtol=2**-10)
    x = np.ones((1, 2, 4, 4), np.float32)
    y, z = run_unfused(graph, {"x": x})
    # Half a weight's step of each, and a little for the activation's, of which 1 is no multiple.
    np.testing.assert_allclose(y[0], weight.sum(axis=1), atol=0.011)
    np.testing.assert_allclose(z[0], weight.sum(axis=0), atol=0.011)


def test_a_weight_of_two_convolutions_in_a_row_serves_both():
    model = model_of(
        [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])],
        {"y": 2},
        w=column(1, 1, 1, -1),
    )
    graph = quantized(model, x=1, h=2)
    onnx.checker.check_model(graph, full_check=True)
    assert operations(graph).count("QuantizeLinear") == 2
    constants = constants_of(graph)
    np.testing.assert_array_equal(constants["h.weight_quantized"], constants["y.weight_quantized"])
    assert "w" not in constants


def test_other_readers_of_an_activation_get_it_unquantized():
    model = model_of(
        [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Add", ["x", "h"], ["y"])],
        {"y": 2},
        w=column(1, 0, 0, 1),
    )
    (add,) = (node for node in quantized(model, x=1).graph.node if node.op_type == "Add")
    assert list(add.input) == ["x", "h"]


def test_a_classifier_written_as_matmul_is_quantized_by_column():
    model = graph_of(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        {"w": np.tile(np.array([1.27, 0.25], np.float32), (32, 1))},
        takes={"x": (2, 4, 4)},
        gives={"y": (2,)},
    )
    graph = quantized(model, f=1)
    onnx.checker.check_model(graph, full_check=True)
    np.testing.assert_allclose(constants_of(graph)["y.weight_scale"], [0.01, 0.25 / 127], rtol=2**-10)


def test_a_missing_range_is_named(one_convolution):
    with refuses("ranges-incomplete"):
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
    graph = quantized(model, "pointwise", x=1)
    onnx.checker.check_model(graph, full_check=True)
    assert "w" in constants_of(graph)
    assert operations(graph).count("QuantizeLinear") == 1


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
    onnx.checker.check_model(quantized(model, "pointwise", x=(-0.2, 1)), full_check=True)


RESIDUAL = [
    helper.make_node("Conv", ["x", "k"], ["s"]),
    helper.make_node("Conv", ["s", "w"], ["h"]),
    helper.make_node("Add", ["s", "h"], ["y"]),
]


def steps_in(graph) -> dict[str, float]:
    """What the graph's own constants say each tensor's step is, by the tensor."""
    constants = constants_of(graph)
    return {
        node.input[0]: constants[node.input[1]].item()
        for node in graph.graph.node
        if node.op_type == "QuantizeLinear"
    }


@pytest.mark.parametrize(
    ("s", "h", "amax"),
    [
        ((-1.0, 1.0), (-2.54, 0.5), 2.54),
        ((-0.1, 5.08), (0.0, 0.3), 5.08),
        ((0.0, 1.27), (0.0, 0.01), 1.27),
        ((-0.2, 3.0), (-6.35, 0.1), 6.35),
    ],
)
def test_both_inputs_of_a_residual_sum_have_the_wider_ones_scale_and_no_centre(s, h, amax):
    weights = {"k": column(1, 0, 0, 1), "w": column(0.5, 0, 0, 0.5)}
    graph = quantized(model_of(RESIDUAL, {"y": 2}, **weights), "bandwidth", s=s, h=h)
    steps = steps_in(graph)
    assert steps.keys() == {"s", "h"}
    assert steps["s"] == steps["h"] == pytest.approx(amax / 127, rel=2**-10)
    (add,) = (node for node in graph.graph.node if node.op_type == "Add")
    assert list(add.input) == ["s.dequantized", "h.dequantized"]
    convolution = next(node for node in graph.graph.node if node.output[0] == "h")
    assert convolution.input[0] == "s.dequantized", "the same tensor, in INT8 once"


def test_every_residual_sum_of_b0_adds_two_tensors_of_one_scale(random_b0):
    model = read_model(random_b0.path)
    placement = place_int8(model, "bandwidth")
    bounds = {name: (-0.3 - number / 100, 2 + number / 10) for number, name in enumerate(placement.tensors)}
    graph = insert_qdq(model, placement, ranges_of(bounds))
    constants = constants_of(graph)
    makers = {node.output[0]: node for node in graph.graph.node}
    sums = [makers[node.output[0]] for node in model.graph.node if node.op_type == "Add"]
    assert len(sums) == 9
    scales = [{constants[makers[name].input[1]].item() for name in node.input} for node in sums]
    assert [makers[name].op_type for node in sums for name in node.input] == ["DequantizeLinear"] * 18
    assert [len(each) for each in scales] == [1] * 9
    assert len(set.union(*scales)) == 9, "each sum has its own"


def test_a_sum_left_in_float_reads_what_it_read_before(random_b0):
    model = read_model(random_b0.path)
    whole = place_int8(model, "bandwidth")
    placement = whole.without(["blocks.1.1.add"])
    graph = insert_qdq(model, placement, ranges_of(dict.fromkeys(whole.tensors, 4.0)))
    onnx.checker.check_model(graph, full_check=True)
    (before, after) = (
        next(list(node.input) for node in each.graph.node if node.output[0] == "blocks.1.1.add")
        for each in (model, graph)
    )
    assert before == after


@pytest.mark.parametrize(
    "bounds",
    [
        (0.0, 0.0),
        (4.0, 4.0),
        (-4.0, -4.0),
        (1e-30, 2e-30),
        (0.0, 1e-8),
        (-1e-3, 6e4),
        (-1e30, 1e30),
        (0.0, 3.4e38),
    ],
    ids=["all zero", "constant", "constant below", "tiny", "near zero", "large", "huge", "huge above"],
)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("centrable", [True, False], ids=["free", "padded"])
def test_steps_of_any_activations_are_positive_and_finite(bounds, centrable):
    pads = [0] * 4 if centrable else [1] * 4
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"], pads=pads)], {"y": 2}, w=column(1, 0, 0, 1))
    step = activation_steps(place_int8(model, "all-conv"), ranges_of({"x": bounds}))["x"].step
    assert 2**-24 <= step <= 65504
    assert float(np.float16(step)) == step


def test_sums_that_share_an_input_have_one_scale_together():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["a"]),
        helper.make_node("Add", ["s", "a"], ["first"]),
        helper.make_node("Conv", ["s", "w"], ["b"]),
        helper.make_node("Add", ["s", "b"], ["second"]),
    ]
    model = model_of(nodes, {"first": 2, "second": 2}, w=column(1, 0, 0, 1))
    steps = steps_in(quantized(model, "bandwidth", s=1.27, a=2.54, b=5.08))
    assert set(steps) == {"s", "a", "b"}
    assert steps["s"] == steps["a"] == steps["b"] == pytest.approx(0.04, rel=2**-10)


def test_the_range_of_a_sum_left_in_float_widens_no_other():
    model = model_of(RESIDUAL, {"y": 2}, k=column(1, 0, 0, 1), w=column(0.5, 0, 0, 0.5))
    placement = place_int8(model, "bandwidth")
    ranges = ranges_of({"s": (0.0, 1.27), "h": 100.0})
    step = activation_steps(placement.without(["y"]), ranges)["s"]
    assert step.step == pytest.approx(0.005, rel=2**-10)
    assert step.centre == pytest.approx(0.635, rel=2**-10)
    assert activation_steps(placement, ranges)["s"].step == pytest.approx(100 / 127, rel=2**-10)
