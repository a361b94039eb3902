"""Placement in graphs that deploykit did not write."""

import numpy as np
import onnx
import pytest
from handmade_graphs import graph_of, weight
from onnx import helper, numpy_helper
from refusals import refuses

from deploykit.quantize.placement import POLICIES, DequantizedInput, Placement, place_all_int8, place_int8


def model_of(nodes, weights, *, shape=(3, 16, 16)) -> onnx.ModelProto:
    return graph_of(nodes, weights, takes={"image": shape}, gives={"y": None})


def outputs_of(placement: Placement) -> list[str]:
    return [node.output for node in placement.products]


def test_a_graph_whose_nodes_have_no_names_is_understood():
    model = model_of(
        [
            helper.make_node("Conv", ["image", "stem"], ["a"], kernel_shape=[3, 3]),
            helper.make_node("Conv", ["a", "expand"], ["b"]),
            helper.make_node("Conv", ["b", "grouped"], ["c"], group=2),
            helper.make_node("Conv", ["c", "strided"], ["d"], strides=[2, 2]),
            helper.make_node("ReduceMean", ["d", "axes"], ["pooled"], keepdims=1),
            helper.make_node("Conv", ["pooled", "squeeze"], ["s"]),
            helper.make_node("Relu", ["s"], ["r"]),
            helper.make_node("Conv", ["r", "excite"], ["e"]),
            helper.make_node("Sigmoid", ["e"], ["gate"]),
            helper.make_node("Mul", ["d", "gate"], ["scaled"]),
            helper.make_node("Conv", ["scaled", "project"], ["f"]),
            helper.make_node("GlobalAveragePool", ["f"], ["g"]),
            helper.make_node("Flatten", ["g"], ["flat"]),
            helper.make_node("MatMul", ["flat", "classifier"], ["y"]),
        ],
        {
            "stem": weight(8, 3, 3, 3),
            "expand": weight(8, 8, 1, 1),
            "grouped": weight(8, 4, 1, 1),
            "strided": weight(8, 8, 1, 1),
            "axes": np.array([2, 3]),
            "squeeze": weight(2, 8, 1, 1),
            "excite": weight(8, 2, 1, 1),
            "project": weight(8, 8, 1, 1),
            "classifier": weight(8, 4),
        },
    )
    pointwise, dense, bandwidth, everything = (place_int8(model, policy) for policy in POLICIES)
    found = [(node.activation, node.weight, node.output, node.channel_axis) for node in pointwise.products]
    assert found == [
        ("a", "expand", "b", 0),
        ("scaled", "project", "f", 0),
        ("flat", "classifier", "y", 1),
    ]
    assert outputs_of(dense) == ["b", "d", "f", "y"]  # the strided one too, which is no product at each place
    assert outputs_of(bandwidth) == ["b", "c", "d", "f", "y"]
    assert outputs_of(everything) == ["a", "b", "c", "d", "s", "e", "f", "y"]
    # 14 x 14 after the stem without padding, 7 x 7 after the stride.
    macs = {
        "stem": 14 * 14 * 9 * 3 * 8,
        "b": 14 * 14 * 8 * 8,
        "c": 14 * 14 * 4 * 8,
        "d": 7 * 7 * 8 * 8,
        "s and e": 2 * 8 + 8 * 2,
        "f": 7 * 7 * 8 * 8,
        "y": 8 * 4,
    }
    assert everything.macs == sum(macs.values())
    assert pointwise.int8_share == pytest.approx((macs["b"] + macs["f"] + macs["y"]) / everything.macs)
    assert [node.macs for node in pointwise.products] == [macs["b"], macs["f"], macs["y"]]
    assert everything.int8_share == 1


@pytest.mark.parametrize(
    ("node", "shape", "axis"),
    [
        (helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1), (4, 768), 0),
        (helper.make_node("Gemm", ["flat", "w"], ["y"], transB=0), (768, 4), 1),
        (helper.make_node("Gemm", ["flat", "w"], ["y"]), (768, 4), 1),
        (helper.make_node("MatMul", ["flat", "w"], ["y"]), (768, 4), 1),
    ],
    ids=["transposed", "not transposed", "by default", "MatMul"],
)
def test_the_output_channels_of_a_linear_layer_are_where_its_weight_has_them(node, shape, axis):
    flatten = helper.make_node("Flatten", ["image"], ["flat"])
    (found,) = place_int8(model_of([flatten, node], {"w": weight(*shape)}), "pointwise").products
    assert found.channel_axis == axis


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("MatMul", ["image", "image"], ["y"])],
        [helper.make_node("Conv", ["image", "image"], ["y"])],
        [helper.make_node("Conv", ["image", "kernel"], ["y"])],
    ],
    ids=["product of activations", "weight that is computed", "3x3 convolution"],
)
def test_what_has_no_constant_matrix_is_left_alone(nodes):
    with refuses("nothing-to-quantize") as caught:
        place_int8(model_of(nodes, {"kernel": weight(8, 3, 3, 3)}), "pointwise")
    assert "--int8-policy" in caught.value.fix


@pytest.mark.parametrize(
    "attributes",
    [{"group": 2}, {"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}],
    ids=["groups", "stride", "pads"],
)
def test_a_1x1_convolution_that_is_no_matrix_product_is_not_pointwise(attributes):
    nodes = [
        helper.make_node("Conv", ["image", "stem"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["y"], **attributes),
    ]
    model = model_of(
        nodes, {"stem": weight(4, 3, 1, 1), "w": weight(4, 4 // attributes.get("group", 1), 1, 1)}
    )
    assert outputs_of(place_int8(model, "pointwise")) == ["a"]
    assert outputs_of(place_int8(model, "bandwidth")) == ["y"]  # on a feature map, and the first is not
    assert outputs_of(place_int8(model, "all-conv")) == ["a", "y"]


def test_squeeze_excite_is_known_where_constants_are_nodes():
    limits = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.float32(value)))
        for name, value in (("low", 0), ("high", 6))
    ]
    nodes = [
        *limits,
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "squeeze"], ["s"]),
        helper.make_node("Clip", ["s", "low", "high"], ["r"]),
        helper.make_node("Conv", ["r", "excite"], ["y"]),
    ]
    model = model_of(nodes, {"squeeze": weight(2, 3, 1, 1), "excite": weight(3, 2, 1, 1)})
    for policy in ("pointwise", "dense", "bandwidth"):
        with refuses("nothing-to-quantize"):
            place_int8(model, policy)
    assert outputs_of(place_int8(model, "all-conv")) == ["s", "y"]


def torchvision_like() -> onnx.ModelProto:
    """Names as torch.onnx gives them."""
    block = "/features/features.1"
    nodes = [
        helper.make_node("Conv", ["image", "onnx::Conv_10"], ["/features/features.0/Conv_output_0"]),
        helper.make_node(
            "Relu", ["/features/features.0/Conv_output_0"], ["/features/features.0/Relu_output_0"]
        ),
        helper.make_node(
            "Conv", ["/features/features.0/Relu_output_0", "onnx::Conv_11"], [f"{block}/conv/Conv_output_0"]
        ),
        helper.make_node(
            "Add",
            ["/features/features.0/Relu_output_0", f"{block}/conv/Conv_output_0"],
            [f"{block}/Add_output_0"],
        ),
        helper.make_node("GlobalAveragePool", [f"{block}/Add_output_0"], ["/avgpool/Pool_output_0"]),
        helper.make_node("Flatten", ["/avgpool/Pool_output_0"], ["/Flatten_output_0"]),
        helper.make_node("Gemm", ["/Flatten_output_0", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    return model_of(
        nodes,
        {
            "onnx::Conv_10": weight(8, 3, 3, 3),
            "onnx::Conv_11": weight(8, 8, 1, 1),
            "fc.weight": weight(4, 8),
            "fc.bias": weight(4),
        },
    )


def test_names_from_torch_are_matched_across_their_slashes():
    model = torchvision_like()
    inside = place_int8(model, "bandwidth", include=["/features/features.0/*"])
    assert outputs_of(inside) == [
        "/features/features.0/Conv_output_0",
        "/features/features.1/conv/Conv_output_0",
        "y",
    ]
    assert outputs_of(place_int8(model, "all-conv", exclude=["/features*"])) == ["y"]


def test_a_residual_of_a_model_from_elsewhere_is_carried_at_both_positions():
    placement = place_int8(torchvision_like(), "bandwidth")
    shortcut, branch = "/features/features.0/Relu_output_0", "/features/features.1/conv/Conv_output_0"
    total = "/features/features.1/Add_output_0"
    assert placement.dequantized_inputs == (
        DequantizedInput(tensor=shortcut, output=total, position=0),
        DequantizedInput(tensor=branch, output=total, position=1),
    )
    assert placement.ties == ((shortcut, branch),)
    assert placement.tensors == (shortcut, "/Flatten_output_0", branch)


@pytest.mark.parametrize(
    ("bias", "centrable"),
    [({}, True), ({"b": weight(4)}, True), ({"b": weight(1, 4)}, False)],
    ids=["none", "a vector", "a row"],
)
def test_a_linear_layer_is_centred_where_its_bias_takes_it_up(bias, centrable):
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", *bias], ["y"]),
    ]
    (found,) = place_int8(model_of(nodes, {"w": weight(768, 4), **bias}), "pointwise").products
    assert found.can_absorb_offset is centrable


def test_a_matmul_has_no_bias_to_centre_with():
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    (found,) = place_int8(model_of(nodes, {"w": weight(768, 4)}), "pointwise").products
    assert not found.can_absorb_offset


def test_a_model_without_products_has_nothing_to_measure():
    model = model_of([helper.make_node("Relu", ["image"], ["y"])], {})
    with refuses("nothing-to-quantize") as caught:
        place_all_int8(model)
    assert "FP16" in caught.value.fix


@pytest.mark.parametrize("bias", ["computed", "a matrix"])
def test_a_layer_whose_bias_is_no_constant_a_channel_stays_in_float(bias):
    flatten = helper.make_node("Flatten", ["image"], ["flat"])
    made = helper.make_node("Relu", ["b"], ["computed"])
    layer = helper.make_node("Gemm", ["flat", "w", "computed" if bias == "computed" else "b"], ["h"])
    last = helper.make_node("MatMul", ["h", "v"], ["y"])
    constants = {"w": weight(768, 4), "v": weight(4, 4), "b": weight(2, 4)}
    assert outputs_of(place_int8(model_of([flatten, made, layer, last], constants), "pointwise")) == ["y"]


def test_the_sum_of_two_numbers_is_no_residual():
    """Exports of dynamic shapes compute with them."""
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["height"]),
        helper.make_node("Gather", ["shape", "three"], ["width"]),
        helper.make_node("Add", ["height", "width"], ["sides"]),
        helper.make_node("Conv", ["image", "w"], ["h"]),
        helper.make_node("Conv", ["h", "w"], ["y"]),
    ]
    model = model_of(nodes, {"w": weight(3, 3, 1, 1), "two": np.int64(2), "three": np.int64(3)})
    assert place_int8(model, "bandwidth").dequantized_inputs == place_all_int8(model).dequantized_inputs == ()


def test_a_model_of_unknown_shapes_is_placed_too():
    nodes = [
        helper.make_node("Relu", ["sides"], ["relu"]),
        helper.make_node("Cast", ["relu"], ["shape"], to=onnx.TensorProto.INT64),
        helper.make_node("Reshape", ["image", "shape"], ["h"]),
        helper.make_node("Conv", ["h", "w"], ["y"]),
    ]
    model = model_of(nodes, {"w": weight(3, 3, 1, 1), "sides": np.float32([-1, 3, 16, 16])})
    assert place_int8(model, "pointwise").int8_share == 1
