"""Ranges to one side of zero: the middle is subtracted before quantization, and made up for in the bias."""

import numpy as np
import onnx
import pytest
from handmade_graphs import constants_of, graph_of, ranges_of, run_unfused, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper

from deploykit.quantize.placement import place_int8
from deploykit.quantize.qdq import activation_steps, insert_qdq, quantize_weight

SWISH_LOW = -0.27846454  # the smallest value of x * sigmoid(x), at x = -1.2785
CENTRED = {"x": (SWISH_LOW, 5.0)}
SHAPE = (4, 8, 8)


def quantized(model, bounds, policy="all-conv"):
    return insert_qdq(model, place_int8(model, policy), ranges_of(bounds))


def step_of(bounds: tuple[float, float], nodes=None, constants=None, policy="all-conv", name="x"):
    nodes = nodes or [helper.make_node("Conv", ["x", "w"], ["y"])]
    constants = constants or {"w": weight(4, 4, 1, 1)}
    model = graph_of(nodes, constants, takes={"x": SHAPE}, gives={"y": None})
    placement = place_int8(model, policy)
    return activation_steps(placement, ranges_of({**dict.fromkeys(placement.tensors, 1.0), name: bounds}))[
        name
    ]


def operations(model) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("bounds", "centre", "step"),
    [
        # (low + high) / 2, and half of high - low over 127.
        ((SWISH_LOW, 5.0), 2.3607677, 2.6392323 / 127),
        ((0.0, 6.0), 3.0, 3 / 127),
        ((2.0, 4.0), 3.0, 1 / 127),
        ((-6.0, 0.0), -3.0, 3 / 127),
        ((-5.0, -4.0), -4.5, 0.5 / 127),
        ((-3.0, 4.0), 0.5, 3.5 / 127),  # 3.5 is less than 0.9 times 4
        ((-3.3, 4.0), 0.0, 4 / 127),  # 3.65 is not
        ((-1.0, 1.0), 0.0, 1 / 127),
        ((-4.0, 1.0), -1.5, 2.5 / 127),
    ],
)
def test_a_range_is_centred_where_that_saves_a_tenth_of_its_step(bounds, centre, step):
    found = step_of(bounds)
    assert found.centre == pytest.approx(centre, rel=2**-11)
    assert float(np.float16(found.centre)) == found.centre, "FP16 holds it exactly"
    # The centre's own rounding may move one end outward by 2^-11 of it.
    assert found.step == pytest.approx(step, rel=2**-9)
    assert found.centre - 127 * found.step <= bounds[0]
    assert found.centre + 127 * found.step >= bounds[1]


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-100, 100, width=32),
    width=st.floats(2**-4, 100, width=32),
    places=arrays.arrays(np.float32, 256, elements=st.floats(0, 1, width=32)),
)
def test_within_any_range_nothing_moves_by_more_than_half_a_step(low, width, places):
    x = np.clip(low + places * np.float32(width), low, low + width).reshape(1, *SHAPE).astype(np.float32)
    bounds = (min(low, float(x.min())), max(low + width, float(x.max())))
    model = graph_of(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        {"w": weight(4, 4, 1, 1)},
        takes={"x": SHAPE},
        gives={"y": SHAPE},
    )
    step = activation_steps(place_int8(model, "all-conv"), ranges_of({"x": bounds}))["x"]
    (result,) = run_unfused(quantized(model, {"x": bounds}), {"x": x}, "x.dequantized")
    # FP32 rounds x - centre and the quantized value, each to 2^-24 of magnitudes up to 300.
    assert np.abs(result + step.centre - x).max() <= step.step / 2 + 300 * 2**-22


def dequantized(x: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """What INT8 keeps of x, by the definition; its step and centre are those of the range, in FP16."""
    centre = float(np.float16(sum(bounds) / 2))
    exact = max(bounds[1] - centre, centre - bounds[0]) / 127
    step = np.float16(exact)
    step = float(step if float(step) >= exact else np.nextafter(step, np.float16(np.inf)))
    return np.clip(np.rint((x - np.float32(centre)) / np.float32(step)), -128, 127) * step + centre


def rounded_weight(w: np.ndarray, axis: int) -> np.ndarray:
    values, scales = quantize_weight(w, axis)
    return values * np.expand_dims(scales, tuple(each for each in range(w.ndim) if each != axis)).astype(
        float
    )


def convolved(x: np.ndarray, w: np.ndarray, *, stride: int, groups: int) -> np.ndarray:
    """Without padding, in float64; (n, outputs, height, width)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    per_group = np.split(windows, groups, axis=1), np.split(w, groups, axis=0)
    parts = [np.einsum("nchwij,ocij->nohw", *each, optimize=True) for each in zip(*per_group, strict=True)]
    return np.concatenate(parts, axis=1)


def swished(*shape: int) -> np.ndarray:
    values = np.random.default_rng(1).normal(0, 3, shape)
    return np.clip(values / (1 + np.exp(-values)), SWISH_LOW, 5).astype(np.float32)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    ("shape", "stride", "groups"),
    [
        ((6, 4, 1, 1), 1, 1),
        ((6, 4, 1, 1), 2, 1),
        ((6, 2, 1, 1), 1, 2),
        ((4, 1, 3, 3), 2, 4),
        ((6, 4, 3, 3), 1, 1),
    ],
    ids=["1x1", "stride", "groups", "depthwise", "3x3"],
)
def test_a_centred_convolution_computes_what_it_would_of_the_dequantized_activation(
    shape, stride, groups, bias
):
    constants = {"w": normal(*shape)} | ({"b": normal(shape[0])} if bias else {})
    node = helper.make_node("Conv", ["x", *constants], ["y"], strides=[stride] * 2, group=groups)
    side_px = (8 - shape[-1]) // stride + 1
    model = graph_of([node], constants, takes={"x": SHAPE}, gives={"y": (shape[0], side_px, side_px)})
    x = swished(3, *SHAPE)
    graph = quantized(model, CENTRED)
    onnx.checker.check_model(graph, full_check=True)
    (y,) = run_unfused(graph, {"x": x})
    expected = convolved(
        dequantized(x, CENTRED["x"]), rounded_weight(constants["w"], 0), stride=stride, groups=groups
    )
    expected += constants["b"].reshape(-1, 1, 1) if bias else 0
    np.testing.assert_allclose(y, expected, atol=1e-4)
    assert operations(graph).count("Add") == 1, "the subtraction of the centre; the bias is the convolution's"


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_centred_linear_layer_computes_what_it_would_of_the_dequantized_activation(transposed, bias):
    w = normal(5, 256)
    constants = {"w": w if transposed else np.ascontiguousarray(w.T)} | ({"b": normal(5)} if bias else {})
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", *constants], ["y"], transB=transposed),
    ]
    model = graph_of(nodes, constants, takes={"x": SHAPE}, gives={"y": (5,)})
    graph = quantized(model, {"f": CENTRED["x"]})
    onnx.checker.check_model(graph, full_check=True)
    x = swished(3, *SHAPE)
    (y,) = run_unfused(graph, {"x": x})
    expected = dequantized(x.reshape(3, -1), CENTRED["x"]) @ rounded_weight(w, 0).T
    np.testing.assert_allclose(y, expected + (constants["b"] if bias else 0), atol=1e-3)


def test_the_bias_takes_up_centre_times_the_integer_weights_sum():
    model = graph_of(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        {"w": np.array([1.27, -0.01, 0.5, 0], np.float32).reshape(1, 4, 1, 1), "b": np.float32([10])},
        takes={"x": SHAPE},
        gives={"y": None},
    )
    constants = constants_of(quantized(model, {"x": (0.0, 6.0)}))
    assert constants["x.centred.by"] == -3
    # 1.27 / 127 is 0.01, which FP16 rounds up to 1311 / 2^17: 127 - 1 + 50 = 176 steps, times 3.
    assert constants["y.bias"] == pytest.approx(10 + 3 * 176 * 1311 / 2**17, rel=1e-6)


def test_a_bias_that_two_convolutions_share_stays_for_the_other():
    nodes = [
        helper.make_node("Conv", ["x", "v", "b"], ["h"]),
        helper.make_node("Conv", ["h", "w", "b"], ["y"]),
    ]
    constants = {"v": normal(4, 4, 1, 1), "w": normal(4, 4, 1, 1), "b": normal(4)}
    model = graph_of(nodes, constants, takes={"x": SHAPE}, gives={"y": None})
    graph = quantized(model, {"x": CENTRED["x"], "h": 9.0})
    np.testing.assert_array_equal(constants_of(graph)["b"], constants["b"])
    biases = {node.output[0]: node.input[2] for node in graph.graph.node if node.op_type == "Conv"}
    assert biases == {"h": "h.bias", "y": "b"}


PADDED = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
POINTWISE = helper.make_node("Conv", ["x", "k"], ["h"])
W, K, V = weight(4, 4, 3, 3), weight(4, 4, 1, 1), weight(256, 4)


@pytest.mark.parametrize(
    ("nodes", "constants", "policy", "name"),
    [
        ([PADDED], {"w": W}, "all-conv", "x"),
        ([helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER")], {"w": W}, "all-conv", "x"),
        (
            [POINTWISE, PADDED, helper.make_node("Sum", ["h", "y"], ["z"])],
            {"w": W, "k": K},
            "all-conv",
            "x",
        ),
        (
            [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "v"], ["y"])],
            {"v": V},
            "all-conv",
            "f",
        ),
        (
            [
                helper.make_node("Flatten", ["x"], ["f"]),
                helper.make_node("Gemm", ["f", "v", "c"], ["y"]),
            ],
            {"v": V, "c": weight(1, 4)},
            "all-conv",
            "f",
        ),
        (
            [
                POINTWISE,
                helper.make_node("Conv", ["h", "k"], ["b"]),
                helper.make_node("Add", ["h", "b"], ["y"]),
            ],
            {"k": K},
            "bandwidth",
            "h",
        ),
        (
            [
                POINTWISE,
                helper.make_node("Conv", ["h", "k"], ["b"]),
                helper.make_node("Add", ["h", "b"], ["y"]),
            ],
            {"k": K},
            "bandwidth",
            "b",
        ),
    ],
    ids=[
        "padded",
        "padded by itself",
        "padded for one reader",
        "MatMul",
        "bias of two dimensions",
        "residual, shortcut",
        "residual, branch",
    ],
)
def test_what_no_bias_can_make_up_for_is_not_centred(nodes, constants, policy, name):
    step = step_of((0.0, 6.35), nodes, constants, policy, name)
    assert step.centre == 0
    assert step.step == pytest.approx(6.35 / 127, rel=2**-10)


def test_the_shortcut_is_centred_where_the_sum_is_not_in_int8():
    nodes = [
        POINTWISE,
        helper.make_node("Conv", ["h", "k"], ["b"]),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    assert step_of((0.0, 6.35), nodes, {"k": K}, "pointwise", "h").centre == pytest.approx(3.175, rel=2**-11)


def squeeze_excite(*, projected: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Conv", ["p", "k"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["gate"]),
        helper.make_node("Mul", ["s", "gate"], ["y"]),
        helper.make_node("Conv", ["y", "k"], ["z"]),
    ]
    nodes += [helper.make_node("Conv", ["s", "k"], ["other"])] if projected else []
    constants = {"k": normal(4, 4, 1, 1)}
    gives = {"z": SHAPE, **({"other": SHAPE} if projected else {})}
    return graph_of(nodes, constants, takes={"x": SHAPE}, gives=gives)


@pytest.mark.parametrize("projected", [False, True], ids=["alone", "with a convolution"])
def test_squeeze_excites_pool_and_multiplication_read_one_tensor_with_its_centre_added_again(projected):
    graph = quantized(
        squeeze_excite(projected=projected), {"s": CENTRED["x"], "x": 4.0, "y": 4.0}, "bandwidth"
    )
    onnx.checker.check_model(graph, full_check=True)
    reads = {
        node.op_type: node.input[0]
        for node in graph.graph.node
        if node.op_type in ("Mul", "GlobalAveragePool")
    }
    assert reads == {"Mul": "s.restored", "GlobalAveragePool": "s.restored"}
    s_pairs = [
        node for node in graph.graph.node if node.op_type == "QuantizeLinear" and "s." in node.input[0]
    ]
    assert [node.input[0] for node in s_pairs] == ["s.centred"]
    if projected:
        (convolution,) = (node for node in graph.graph.node if node.output[0] == "other")
        assert convolution.input[0] == "s.dequantized", "its bias makes up for the centre"


def test_what_squeeze_excite_reads_is_what_int8_keeps_of_the_tensor():
    graph = quantized(squeeze_excite(projected=True), {"s": CENTRED["x"], "x": 4.0, "y": 4.0}, "bandwidth")
    x = swished(2, *SHAPE) / 3
    s, restored, pooled = run_unfused(graph, {"x": x}, "s", "s.restored", "p")
    np.testing.assert_allclose(restored, dequantized(s, CENTRED["x"]), atol=1e-5)
    np.testing.assert_allclose(pooled, restored.mean(axis=(2, 3), keepdims=True), atol=1e-5)


def test_nothing_is_added_where_nothing_is_centred():
    graph = quantized(squeeze_excite(projected=True), {"s": 4.0, "x": 4.0, "y": 4.0}, "bandwidth")
    assert "Add" not in operations(graph)
    makers = {node.output[0]: node for node in graph.graph.node}
    assert makers["y"].input[0] == makers["p"].input[0] == makers["other"].input[0] == "s.dequantized"


def test_a_constant_activation_is_kept_exactly():
    model = graph_of(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        {"w": np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)},
        takes={"x": SHAPE},
        gives={"y": SHAPE},
    )
    x = np.full((1, *SHAPE), 4, np.float32)
    (y,) = run_unfused(quantized(model, {"x": (4.0, 4.0)}), {"x": x})
    np.testing.assert_allclose(y, x, rtol=2**-10)  # the weight's step is rounded to FP16


@pytest.mark.parametrize("high", [1.2e5, 3e5, 1e30])
def test_the_centre_of_a_range_beyond_fp16_is_a_number(high):
    found = step_of((0.0, high))
    assert found.centre <= 65504
    assert found.step == pytest.approx(min((high - found.centre) / 127, 65504), rel=2**-10)


def test_activations_beyond_fp16_are_quantized_on_a_cpu():
    model = graph_of(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        {"w": np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)},
        takes={"x": SHAPE},
        gives={"y": SHAPE},
    )
    x = np.linspace(0, 3e5, 256, dtype=np.float32).reshape(1, *SHAPE)
    (y,) = run_unfused(quantized(model, {"x": (0.0, 3e5)}), {"x": x})
    assert np.abs(y - x).max() <= (3e5 - 65504) / 127 / 2 * 1.01 + 300
