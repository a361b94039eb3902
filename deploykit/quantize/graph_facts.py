"""What placement asks of an ONNX graph: its products and their work, squeeze-excite, residuals."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from deploykit.onnx_tools.rewriter import attributes_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})


class GraphFacts:
    """Read off once, asked often.

    Attributes:
        weights: shapes of the initializers, by name.
        inputs: the graph's own inputs.
        makers: the node that makes each tensor.
    """

    def __init__(self, model: "ModelProto") -> None:
        self.model = model
        self.weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self.inputs = frozenset(value.name for value in model.graph.input) - self.weights.keys()
        self.makers = {name: node for node in model.graph.node for name in node.output}

    def products(self) -> "Iterator[NodeProto]":
        """Convolutions and linear layers with constant weights and no factors of their own."""
        for node in self.model.graph.node:
            rank = len(self.weights.get(node.input[1], ())) if len(node.input) > 1 else 0
            convolution = node.op_type == "Conv" and rank == 4
            linear = node.op_type in ("Gemm", "MatMul") and rank == 2 and self._is_plain(node)
            if (convolution or linear) and self._adds_constants(node):
                yield node

    def pads(self, node: "NodeProto") -> bool:
        """Whether it surrounds its input with zeros."""
        attributes = attributes_of(node)
        return any(attributes.get("pads", ())) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET"

    def has_free_bias(self, node: "NodeProto") -> bool:
        """Whether a constant for each channel can be added to its bias."""
        if node.op_type == "MatMul":  # it has none
            return False
        return len(node.input) < 3 or len(self.weights.get(node.input[2], ())) == 1

    def macs(self, node: "NodeProto") -> int:
        """Multiply-accumulates an image: each weight is used once for each place of the output."""
        places = self._shapes.get(node.output[0], ())[2:] if node.op_type == "Conv" else ()
        work: int = math.prod(self.weights[node.input[1]])
        return work * math.prod(max(side, 1) for side in places)  # a side is 0 where it is unknown

    @property
    def total_macs(self) -> int:
        return sum(map(self.macs, self.products()))

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
        """Whether it adds two feature maps, and not shapes, say, nor maps that are weighted for it.

        Weighted ones cost accuracy in INT8, and no convolution takes them into its epilogue.
        """
        return node.op_type == "Add" and all(
            len(self._shapes.get(name, ())) == 4
            and name not in self._constants
            and name not in self.pooled
            and not self._is_weighted(name)
            for name in node.input
        )

    def _is_weighted(self, name: str) -> bool:
        maker = self.makers.get(name)
        return maker is not None and maker.op_type == "Mul" and any(map(self._is_number, maker.input))

    def _is_number(self, name: str) -> bool:
        return name in self.weights and math.prod(self.weights[name]) == 1

    def gated_input(self, node: "NodeProto") -> int | None:
        """Which input of a multiplication is a feature map, where the other is squeeze-excite's gate."""
        if node.op_type != "Mul":
            return None
        gates = [name in self.pooled for name in node.input]
        if gates.count(True) != 1 or any(name in self._constants for name in node.input):
            return None
        return gates.index(False)

    def pools_of(self, tensor: str) -> "list[NodeProto]":
        return [node for node in self.model.graph.node if node.op_type in _POOLS and node.input[0] == tensor]

    @cached_property
    def _constants(self) -> frozenset[str]:
        constants = set(self.weights)
        for node in self.model.graph.node:
            # Exporters pass biases that layers share through Identity.
            if node.op_type == "Constant" or (node.op_type == "Identity" and node.input[0] in constants):
                constants.update(node.output)
        return frozenset(constants)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        from onnx import shape_inference

        graph = shape_inference.infer_shapes(self.model).graph
        return {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
        }

    def _adds_constants(self, node: "NodeProto") -> bool:
        """One a channel, or none; a bias that is computed or differs by row can't be spelled another way."""
        if len(node.input) < 3:
            return True
        shape = self.weights.get(node.input[2])
        return shape is not None and math.prod(shape[:-1]) == 1

    def _is_plain(self, node: "NodeProto") -> bool:
        attributes = attributes_of(node)
        plain = {"alpha": 1, "beta": 1, "transA": 0}
        return all(attributes.get(name, value) == value for name, value in plain.items())
