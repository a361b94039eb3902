"""Find the convolutions and matrix products of a graph, in float or between Q/DQ pairs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploykit.onnx_tools.rewriter import node_attributes
from deploykit.onnx_tools.tensor_shapes import TensorShape, infer_tensor_shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PRODUCT_OPS = ("Conv", "Gemm", "MatMul")

_WEIGHT_RANKS = {"Conv": 4, "Gemm": 2, "MatMul": 2}  # of products that INT8 can compute
_POINTWISE = {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0], "auto_pad": b"NOTSET"}
_UNSCALED = {"transA": 0, "alpha": 1, "beta": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A convolution or matrix product with a constant weight, in float or between Q/DQ pairs.

    Attributes:
        op: `Conv`, `Gemm` or `MatMul`.
        node: the node's name, which models from elsewhere may leave empty.
        output: the tensor it makes, which identifies the product.
        output_shape: 0 for an unknown dimension; empty if nothing is known.
        activation: the tensor that the node reads, after DequantizeLinear if there is a Q/DQ pair.
        activation_scale: the tensor with the activation's step; None if the activation is not dequantized.
        quantized_tensor: the tensor before the activation's Q/DQ pair; None if there is no pair.
        weight: the initializer with the weight, which is int8 if DequantizeLinear reads it.
        weight_scale: the tensor with the weight's steps; None if the weight is not dequantized.
        weight_shape: of a convolution (outputs, inputs / groups, height, width).
        channel_axis: the weight's axis of output channels.
        bias: the tensor that the node adds; None if it adds none.
        bias_shape: None if the bias is computed, or if there is none.
        groups: of a convolution; 1 for a matrix product.
        is_padded: whether a convolution surrounds its input with zeros.
        is_matrix_product: whether each pixel is multiplied by the same matrix, as in a 1x1 convolution.
        is_scaled: whether a Gemm transposes its activation or has factors alpha or beta.
    """

    op: str
    node: str = ""
    output: str
    output_shape: TensorShape = ()
    activation: str
    activation_scale: str | None = None
    quantized_tensor: str | None = None
    weight: str
    weight_scale: str | None = None
    weight_shape: TensorShape
    channel_axis: int = 0
    bias: str | None = None
    bias_shape: TensorShape | None = None
    groups: int = 1
    is_padded: bool = False
    is_matrix_product: bool = False
    is_scaled: bool = False

    @property
    def positions(self) -> int:
        """How often the weight is applied: pixels of a convolution's output, rows of a matrix product's."""
        sides = self.output_shape[2:] if self.op == "Conv" else self.output_shape[:-1]
        return math.prod(max(side, 1) for side in sides)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, of one image if the shapes were inferred for one."""
        return math.prod(self.weight_shape) * self.positions

    @property
    def input_channels(self) -> int:
        return self.weight_shape[1 - self.channel_axis] * self.groups

    @property
    def is_depthwise(self) -> bool:
        return self.groups > 1 and self.weight_shape[1] == 1

    @property
    def is_int8(self) -> bool:
        """Whether it reads a dequantized activation and a dequantized weight."""
        return self.activation_scale is not None and self.weight_scale is not None

    @property
    def is_quantizable(self) -> bool:
        """Whether its weight is in float and INT8 could compute it.

        It must do no more than multiply and add one constant a channel: a bias that is computed, or that
        differs by row, cannot be written in any other way.
        """
        return (
            self.weight_scale is None
            and len(self.weight_shape) == _WEIGHT_RANKS[self.op]
            and not self.is_scaled
            and (self.bias is None or (self.bias_shape is not None and math.prod(self.bias_shape[:-1]) == 1))
        )

    @property
    def can_absorb_offset(self) -> bool:
        """Whether its bias can make up for a constant that is subtracted from all of its input.

        Padding must add no zeros, and the bias must be absent or one constant a channel.
        """
        has_room = self.bias is None or (self.bias_shape is not None and len(self.bias_shape) == 1)
        return self.op != "MatMul" and has_room and not self.is_padded


def find_products(model: "ModelProto", *, batch: int | None = 1) -> tuple[Product, ...]:
    """Return the products of the main graph, in its order.

    Args:
        batch: images for which output shapes are inferred; None keeps the batch that the model declares.
    """
    nodes = [node for node in model.graph.node if node.op_type in PRODUCT_OPS]
    shapes = infer_tensor_shapes(model, batch=batch) if nodes else {}
    finder = _Finder(model, shapes)
    return tuple(product for node in nodes for product in finder.describe(node))


class _Finder:
    def __init__(self, model: "ModelProto", shapes: Mapping[str, TensorShape]) -> None:
        self._shapes = shapes
        self._constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self._producers = {name: node for node in model.graph.node for name in node.output}

    def describe(self, node: "NodeProto") -> Iterator[Product]:
        """Yield the node as a product if its weight is constant."""
        weight, weight_scale = self._before_dequantize(node.input[1])
        if weight not in self._constants:
            return
        source, activation_scale = self._before_dequantize(node.input[0])
        quantize = self._producer(source, "QuantizeLinear")
        attributes, weight_shape = node_attributes(node), self._constants[weight]
        is_convolution = node.op_type == "Conv"
        bias = (node.input[2] or None) if len(node.input) > 2 else None
        yield Product(
            op=node.op_type,
            node=node.name,
            output=node.output[0],
            output_shape=self._shapes.get(node.output[0], ()),
            activation=node.input[0],
            activation_scale=activation_scale,
            quantized_tensor=quantize.input[0] if activation_scale and quantize else None,
            weight=weight,
            weight_scale=weight_scale,
            weight_shape=weight_shape,
            channel_axis=0 if is_convolution or attributes.get("transB") else 1,
            bias=bias,
            bias_shape=None if bias is None else self._constants.get(bias),
            groups=attributes.get("group", 1),
            is_padded=_is_padded(attributes),
            is_matrix_product=not is_convolution
            or (weight_shape[2:] == (1, 1) and _has_defaults(attributes, _POINTWISE)),
            is_scaled=not _has_defaults(attributes, _UNSCALED),
        )

    def _before_dequantize(self, name: str) -> tuple[str, str | None]:
        """Return what DequantizeLinear reads to make this tensor, and its scale; or the tensor and None."""
        node = self._producer(name, "DequantizeLinear")
        return (node.input[0], node.input[1]) if node else (name, None)

    def _producer(self, name: str, op: str) -> "NodeProto | None":
        node = self._producers.get(name)
        return node if node is not None and node.op_type == op else None


def _has_defaults(attributes: dict[str, Any], defaults: dict[str, Any]) -> bool:
    return all(attributes.get(name, value) == value for name, value in defaults.items())


def _is_padded(attributes: dict[str, Any]) -> bool:
    return any(attributes.get("pads", ())) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
