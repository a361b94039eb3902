import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.model_file import read_model
from deploykit.quantize.placement import pointwise

# Table 1 of arXiv:1905.11946: B0's stages 2 to 8 have 1, 2, 2, 3, 3, 4, 1 blocks. The first has a
# projection alone, the other 15 an expansion and a projection each, and the head is one more.
B0_POINTWISE = 1 + 15 * 2 + 1


def model_of(nodes, weights):
    """A graph from elsewhere: its nodes have no names."""
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def weight(*shape):
    return np.ones(shape, np.float32)


@pytest.fixture(scope="module")
def placement(random_b0):
    return pointwise(read_model(random_b0.path))


def test_b0_has_32_pointwise_convolutions_and_a_classifier(placement):
    assert len(placement) == B0_POINTWISE + 1 == 33
    assert placement[-1].weight == "classifier.weight"
    assert placement[-2].weight == "conv_head.weight"


def test_depthwise_squeeze_excite_and_stem_stay_in_floating_point(placement):
    weights = [node.weight for node in placement]
    assert not [name for name in weights if "conv_dw" in name or ".se." in name or "stem" in name]


def test_every_weight_is_a_matrix_with_its_output_channels_first(random_b0, placement):
    shapes = {tensor.name: tuple(tensor.dims) for tensor in read_model(random_b0.path).graph.initializer}
    assert {shapes[node.weight][2:] for node in placement} == {(1, 1), ()}
    assert {node.channel_axis for node in placement} == {0}


def test_the_nodes_come_in_the_order_of_the_graph(random_b0, placement):
    order = [node.output[0] for node in read_model(random_b0.path).graph.node]
    positions = [order.index(node.output) for node in placement]
    assert positions == sorted(positions)


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
    found = [(node.activation, node.weight, node.output, node.channel_axis) for node in pointwise(model)]
    assert found == [
        ("a", "expand", "b", 0),
        ("scaled", "project", "f", 0),
        ("flat", "classifier", "y", 1),
    ]


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
    (found,) = pointwise(model_of([flatten, node], {"w": weight(*shape)}))
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
    assert pointwise(model_of(nodes, {"kernel": weight(8, 3, 3, 3)})) == ()


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
    assert pointwise(model) == ()
