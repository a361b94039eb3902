"""Matrix products between Q/DQ pairs, taken apart: pointwise convolutions and linear layers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.onnx_tools.rewriter import GraphEdit, attributes_of, is_matrix_product

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_RANKS = {"Conv": 4, "Gemm": 2, "MatMul": 2}
_PLAIN = {"transA": 0, "alpha": 1, "beta": 1}  # of a linear layer


@dataclass(frozen=True, slots=True, kw_only=True)
class QdqProduct:
    """A product in symmetric INT8.

    Attributes:
        activation: the tensor it reads, before it is centred and quantized.
        offset: what centring adds to it.
        step: the activation's.
        values: the weight, (inputs, outputs).
        scales: the weight's step, (outputs,).
        bias: what is added to weight times activation, not centred, (outputs,).
        output: the tensor it makes.
        shape: that tensor's; the batch may be 0, which is any.
    """

    activation: str
    offset: float
    step: float
    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float64]
    output: str
    shape: tuple[int, ...]

    @property
    def is_convolution(self) -> bool:
        return len(self.shape) == _RANKS["Conv"]


def find_products(model: "ModelProto", edit: GraphEdit) -> dict[str, QdqProduct]:
    """The products of a graph from quantize.qdq, by the tensor they make.

    Left out: what does more than multiply and add a constant, and what makes a tensor of unknown shape.

    Args:
        edit: of that model.
    """
    source = _Source(model, edit)
    products = (source.take_apart(node, shape) for node, shape in _with_shapes(model, edit))
    return {product.output: product for product in products if product is not None}


def _with_shapes(model: "ModelProto", edit: GraphEdit) -> "list[tuple[NodeProto, tuple[int, ...]]]":
    from onnx.shape_inference import infer_shapes

    graph = infer_shapes(model).graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    return [(node, shapes.get(node.output[0], ())) for node in edit.source]


class _Source:
    def __init__(self, model: "ModelProto", edit: GraphEdit) -> None:
        self._edit = edit
        self._constants = {tensor.name for tensor in model.graph.initializer}
        self._makers = {name: node for node in edit.source for name in node.output}

    def take_apart(self, node: "NodeProto", shape: tuple[int, ...]) -> QdqProduct | None:
        if not self._is_plain(node, shape):
            return None
        activation, weight = (self._maker(name, "DequantizeLinear") for name in node.input[:2])
        quantize = activation and self._maker(activation.input[0], "QuantizeLinear")
        if not quantize or not weight or weight.input[0] not in self._constants:
            return None
        values, scales = self._edit.array(weight.input[0]), self._edit.array(weight.input[1])
        if node.op_type == "Conv" and not is_matrix_product(attributes_of(node), values.shape[2:]):
            return None
        values = values.reshape(values.shape[:2])
        if node.op_type == "Conv" or attributes_of(node).get("transB"):
            values = np.ascontiguousarray(values.T)
        uncentred, offset = self._uncentred(quantize.input[0])
        bias = self._edit.array(node.input[2]).reshape(-1) if len(node.input) > 2 else 0.0
        return QdqProduct(
            activation=uncentred,
            offset=offset,
            step=self._edit.array(quantize.input[1]).item(),
            values=values,
            scales=scales,
            bias=bias + offset * scales.astype(np.float64) * values.sum(axis=0, dtype=np.float64),
            output=node.output[0],
            shape=shape,
        )

    def _is_plain(self, node: "NodeProto", shape: tuple[int, ...]) -> bool:
        if len(shape) != _RANKS.get(node.op_type) or not all(shape[1:]):
            return False
        attributes = attributes_of(node)
        plain = all(attributes.get(name, value) == value for name, value in _PLAIN.items())
        return plain and set(node.input[2:]) <= self._constants

    def _uncentred(self, name: str) -> tuple[str, float]:
        centring = self._maker(name, "Add")
        if centring is None or centring.input[1] not in self._constants:
            return name, 0.0
        added = self._edit.array(centring.input[1])
        return (centring.input[0], added.item()) if added.size == 1 else (name, 0.0)

    def _maker(self, name: str, op: str) -> "NodeProto | None":
        node = self._makers.get(name)
        return node if node is not None and node.op_type == op else None
