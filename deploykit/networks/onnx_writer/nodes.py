"""Collecting the ONNX nodes of a layer that needs several."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.onnx_tools.model_io import keep_in_fp32
from deploykit.util.array_types import Array

if TYPE_CHECKING:
    from onnx import NodeProto


class LayerNodes:
    """Nodes and constants of one layer, named after it.

    Args:
        layer: The layer's name.
        output: Name of the tensor it computes.
        constants: The model's constants by name; new ones are added here.
        needs_fp32: Whether the nodes stay in FP32 at every precision.

    Attributes:
        nodes: Nodes in execution order.
    """

    def __init__(
        self, layer: str, output: str, constants: dict[str, Array], *, needs_fp32: bool = False
    ) -> None:
        self._layer, self._output, self._constants, self._needs_fp32 = layer, output, constants, needs_fp32
        self.nodes: list[NodeProto] = []

    def add_node(self, op: str, inputs: list[str], part: str | None = None, **attributes: Any) -> str:
        """Append a node and return the name of its output.

        Args:
            op: ONNX operator.
            inputs: Names of its inputs.
            part: Suffix of its name; None if its output is the layer's.
            attributes: The node's attributes.
        """
        from onnx import helper

        name = self._layer if part is None else f"{self._layer}.{part}"
        output = self._output if part is None else name
        node = helper.make_node(op, inputs, [output], name=name, **attributes)
        self.nodes.append(keep_in_fp32(node) if self._needs_fp32 else node)
        return output

    def add_constant(self, part: str, value: npt.ArrayLike, kind: type[np.generic] = np.float32) -> str:
        """Add a constant and return its name."""
        name = f"{self._layer}.{part}"
        self._constants[name] = np.asarray(value, kind)
        return name

    def in_fp32(self) -> "LayerNodes":
        """Return a view that appends nodes which stay in FP32 at every precision."""
        view = LayerNodes(self._layer, self._output, self._constants, needs_fp32=True)
        view.nodes = self.nodes
        return view
