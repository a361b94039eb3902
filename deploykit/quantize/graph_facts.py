"""Find the products, squeeze-excite blocks and residual additions of an ONNX graph, for INT8 placement."""

import math
from functools import cached_property
from typing import TYPE_CHECKING

from deploykit.onnx_tools.products import Product, find_products
from deploykit.onnx_tools.tensor_shapes import TensorShape, infer_tensor_shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})


class GraphFacts:
    """A graph, analysed once and queried often.

    Attributes:
        weights: shapes of the initializers, by name.
        inputs: the graph's inputs, without initializers.
        producers: the node that makes each tensor.
    """

    def __init__(self, model: "ModelProto") -> None:
        self.model = model
        self.weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self.inputs = frozenset(value.name for value in model.graph.input) - self.weights.keys()
        self.producers = {name: node for node in model.graph.node for name in node.output}

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """The convolutions and linear layers that INT8 could compute, in graph order."""
        return tuple(product for product in find_products(self.model) if product.is_quantizable)

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of all products, for one image."""
        return sum(product.macs for product in self.products)

    @cached_property
    def pooled(self) -> frozenset[str]:
        """Tensors computed from pooled ones alone: 1x1 maps, whatever the image's size."""
        pooled: set[str] = set()
        for node in self.model.graph.node:
            reads = {name for name in node.input if name and name not in self._constants}
            if node.op_type in _POOLS or (reads and reads <= pooled):
                pooled.update(node.output)
        return frozenset(pooled)

    def is_residual(self, node: "NodeProto") -> bool:
        """Return whether a node adds two feature maps, neither of them weighted.

        Sums of shapes or of pooled tensors are not residual. Weighted maps cost accuracy in INT8, and no
        convolution takes them into its epilogue.
        """
        return node.op_type == "Add" and all(
            len(self._shapes.get(name, ())) == 4
            and name not in self._constants
            and name not in self.pooled
            and not self._is_weighted(name)
            for name in node.input
        )

    def gated_input(self, node: "NodeProto") -> int | None:
        """Return which input of a multiplication is a feature map with a squeeze-excite gate, or None."""
        if node.op_type != "Mul":
            return None
        gates = [name in self.pooled for name in node.input]
        if gates.count(True) != 1 or any(name in self._constants for name in node.input):
            return None
        return gates.index(False)

    def pools_of(self, tensor: str) -> "list[NodeProto]":
        """Return the global pools that read a tensor."""
        return [node for node in self.model.graph.node if node.op_type in _POOLS and node.input[0] == tensor]

    def _is_weighted(self, name: str) -> bool:
        producer = self.producers.get(name)
        return (
            producer is not None and producer.op_type == "Mul" and any(map(self._is_scalar, producer.input))
        )

    def _is_scalar(self, name: str) -> bool:
        return name in self.weights and math.prod(self.weights[name]) == 1

    @cached_property
    def _constants(self) -> frozenset[str]:
        constants = set(self.weights)
        for node in self.model.graph.node:
            # Exporters pass biases that layers share through Identity.
            if node.op_type == "Constant" or (node.op_type == "Identity" and node.input[0] in constants):
                constants.update(node.output)
        return frozenset(constants)

    @cached_property
    def _shapes(self) -> dict[str, TensorShape]:
        return infer_tensor_shapes(self.model)
