"""Writes the ONNX nodes of a layer that takes several."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.onnx_tools.model_io import keep_in_fp32

if TYPE_CHECKING:
    from onnx import NodeProto

Array = npt.NDArray[Any]


class LayerNodes:
    """Nodes and constants of one layer, named after it.

    Attributes:
        nodes: in execution order.
    """

    def __init__(
        self, layer: str, output: str, arrays: dict[str, Array], *, needs_fp32: bool = False
    ) -> None:
        self._layer, self._output, self._arrays, self._needs_fp32 = layer, output, arrays, needs_fp32
        self.nodes: list[NodeProto] = []

    def step(self, op: str, reads: list[str], part: str | None = None, **attributes: Any) -> str:
        """Appends a node; returns the tensor it makes.

        Args:
            part: what it makes of the layer; None for its output.
        """
        from onnx import helper

        name = self._layer if part is None else f"{self._layer}.{part}"
        made = self._output if part is None else name
        node = helper.make_node(op, reads, [made], name=name, **attributes)
        self.nodes.append(keep_in_fp32(node) if self._needs_fp32 else node)
        return made

    def constant(self, part: str, value: npt.ArrayLike, kind: type[np.generic] = np.float32) -> str:
        """Adds a constant; returns its name."""
        name = f"{self._layer}.{part}"
        self._arrays[name] = np.asarray(value, kind)
        return name

    def in_fp32(self) -> "LayerNodes":
        """The same, whose nodes stay in FP32 whatever the rest of the model becomes."""
        same = LayerNodes(self._layer, self._output, self._arrays, needs_fp32=True)
        same.nodes = self.nodes
        return same
