"""What the graph that a compiler gets asks of it: its products, by node."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.onnx_tools.rewriter import attributes_of, is_matrix_product

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_PLUMBING = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A convolution or matrix product.

    Attributes:
        macs: multiply-accumulates an image.
        places: how often its weights are applied to an image: pixels of what a convolution makes, rows of
            what a matrix product does.
        channels: of what it reads.
        is_depthwise: it is a convolution with a group a channel.
    """

    macs: int
    places: int
    channels: int
    is_depthwise: bool = False


def name_nodes(model: "ModelProto") -> None:
    """Gives nodes without a name that of the tensor they make, so that a compiler's log can name them."""
    for node in model.graph.node:
        node.name = node.name or node.output[0]


def work_of(model: "ModelProto") -> dict[str, Work]:
    """The products with constant weights, plain or dequantized, by the name of their node."""
    from onnx.shape_inference import infer_shapes

    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    one_image = type(model)()
    one_image.CopyFrom(model)
    for value in (*one_image.graph.input, *one_image.graph.output):
        for batch in value.type.tensor_type.shape.dim[:1]:
            batch.dim_value = 1  # or rows of many images have no known number
    graph = infer_shapes(one_image).graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    return {
        node.name: _work(node, constants[node.input[1]], shapes.get(node.output[0], ()))
        for node in model.graph.node
        if node.op_type in _PRODUCTS and node.input[1] in constants
    }


def int8_products(model: "ModelProto", *, matrices_alone: bool) -> int:
    """How many products of a graph with Q/DQ read INT8 and multiply by it.

    Args:
        matrices_alone: of convolutions count only those that are one matrix product at each place.
    """
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    dequantized = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    count = 0
    for node in model.graph.node:
        if node.op_type in _PRODUCTS and set(node.input[:2]) <= dequantized.keys():
            weight = constants.get(dequantized[node.input[1]].input[0], ())
            matrix = node.op_type != "Conv" or is_matrix_product(attributes_of(node), weight[2:])
            count += matrix or not matrices_alone
    return count


def plumbing_of(model: "ModelProto") -> frozenset[str]:
    """Nodes that only say where INT8 is."""
    return frozenset(node.name for node in model.graph.node if node.op_type in _PLUMBING)


def nearest_product(node: "NodeProto", makers: Mapping[str, "NodeProto"]) -> str | None:
    """The name of the product behind a node that adds to it or applies a function to it."""
    while node.op_type not in _PRODUCTS:
        if not node.input or node.input[0] not in makers:
            return None
        node = makers[node.input[0]]
    return node.name


def _work(node: "NodeProto", weight: tuple[int, ...], made: tuple[int, ...]) -> Work:
    attributes = attributes_of(node)
    if node.op_type == "Conv":
        groups = attributes.get("group", 1)
        channels, places = weight[1] * groups, made[2:]
    else:
        groups = 1
        channels, places = weight[1 if attributes.get("transB") else 0], made[:-1]
    count = math.prod(max(side, 1) for side in places)  # 0 is a side unknown
    return Work(
        macs=math.prod(weight) * count,
        places=count,
        channels=channels,
        is_depthwise=groups > 1 and weight[1] == 1,
    )
