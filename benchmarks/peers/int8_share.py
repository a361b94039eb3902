"""How much of a network's arithmetic a Q/DQ graph puts in INT8."""

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
_MATRIX_OPS = frozenset({"Conv", "Gemm"})  # all that EfficientNet has


def int8_mac_share(model: "ModelProto") -> float:
    """Multiplications whose both factors were rounded to INT8, as a fraction of all, 0 to 1.

    Args:
        model: of fixed height and width; matrix operations other than Conv and Gemm are not counted.
    """
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    makers = {output: node for node in graph.node for output in node.output}
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    int8 = total = 0
    for node in graph.node:
        if node.op_type not in _MATRIX_OPS:
            continue
        macs = _macs(node, weights[_origin(node.input[1], makers)], shapes[node.output[0]])
        total += macs
        if all(_is_dequantized(name, makers) for name in node.input[:2]):
            int8 += macs
    return int8 / total


def _macs(node: "NodeProto", weight: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Per image: a convolution applies its whole weight at every position of its output."""
    return prod(weight) * (prod(output[2:]) if node.op_type == "Conv" else 1)


def _is_dequantized(name: str, makers: dict[str, "NodeProto"]) -> bool:
    while name in makers and makers[name].op_type == "Cast":
        name = makers[name].input[0]
    return name in makers and makers[name].op_type == "DequantizeLinear"


def _origin(name: str, makers: dict[str, "NodeProto"]) -> str:
    """The initializer behind a weight's Q/DQ."""
    while name in makers and makers[name].op_type in _QDQ:
        name = makers[name].input[0]
    return name
