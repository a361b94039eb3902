"""Which nodes compute in INT8.

Policy `pointwise`: 1x1 convolutions on feature maps, and the classifier. Depthwise convolutions
gain nothing in INT8 where the compiler pads them to four times the channels, and squeeze-excite
works on 1x1 maps.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

POLICY = "pointwise"
_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedNode:
    """A node that computes in INT8: its activation input and its weight (initializer), by tensor name.

    Attributes:
        output: the tensor it makes, which names it: nodes of models from elsewhere have no names.
        channel_axis: the weight's axis of output channels.
    """

    output: str
    activation: str
    weight: str
    channel_axis: int


def pointwise(model: "ModelProto") -> tuple[QuantizedNode, ...]:
    """The nodes the `pointwise` policy puts in INT8, in graph order.

    Left out: convolutions with groups, strides or padding, and products with factors of their own.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    pooled = _pooled_tensors(model, frozenset(weights))
    return tuple(
        QuantizedNode(
            output=node.output[0],
            activation=node.input[0],
            weight=node.input[1],
            channel_axis=_channel_axis(node),
        )
        for node in model.graph.node
        if _is_pointwise_convolution(node, weights, pooled) or _is_linear(node, weights)
    )


def _is_pointwise_convolution(
    node: "NodeProto", weights: dict[str, tuple[int, ...]], pooled: frozenset[str]
) -> bool:
    if node.op_type != "Conv" or node.input[0] in pooled or weights.get(node.input[1], ())[2:] != (1, 1):
        return False
    attributes = _attributes(node)
    plain = {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0]}
    return all(attributes.get(name, value) == value for name, value in plain.items())


def _is_linear(node: "NodeProto", weights: dict[str, tuple[int, ...]]) -> bool:
    if node.op_type not in ("Gemm", "MatMul") or len(weights.get(node.input[1], ())) != 2:
        return False
    attributes = _attributes(node)
    return all(
        attributes.get(name, value) == value for name, value in {"alpha": 1, "beta": 1, "transA": 0}.items()
    )


def _channel_axis(node: "NodeProto") -> int:
    return 0 if node.op_type == "Conv" or _attributes(node).get("transB") else 1


def _attributes(node: "NodeProto") -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _pooled_tensors(model: "ModelProto", weights: frozenset[str]) -> frozenset[str]:
    """Tensors computed from pooled ones alone: 1x1 maps, whatever the image's size."""
    constants = set(weights)
    pooled: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants.update(node.output)
        reads = {name for name in node.input if name and name not in constants}
        if node.op_type in _POOLS or (reads and reads <= pooled):
            pooled.update(node.output)
    return frozenset(pooled)
