"""Reading ONNX nodes, and rewriting a graph: under names that are not taken, and with nothing left over."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def node_attributes(node: "NodeProto") -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def tensors_read(node: "NodeProto") -> set[str]:
    """Return the tensors that a node reads itself or that its subgraphs take from the graph around them."""
    read = set(node.input)
    for subgraph in subgraphs_of(node):
        defined = {value.name for value in subgraph.input} | {tensor.name for tensor in subgraph.initializer}
        defined |= {name for inner in subgraph.node for name in inner.output}
        inner_reads = {value.name for value in subgraph.output}
        inner_reads.update(*map(tensors_read, subgraph.node))
        read |= inner_reads - defined
    return read


def subgraphs_of(node: "NodeProto") -> "list[GraphProto]":
    """Return the bodies of an If, Loop or Scan."""
    graphs: list[GraphProto] = []
    for item in node.attribute:
        graphs += [item.g] if item.HasField("g") else []
        graphs += item.graphs
    return graphs


class GraphEdit:
    """A copy of a model whose nodes are written anew, in order.

    Attributes:
        source: the copy's nodes as they were.
    """

    def __init__(self, model: "ModelProto") -> None:
        self._model = type(model)()
        self._model.CopyFrom(model)
        graph = self._model.graph
        self.source: tuple[NodeProto, ...] = tuple(graph.node)
        self._nodes: list[NodeProto] = []
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = {value.name for value in graph.input} | self._constants.keys()
        self._taken |= {name for node in self.source for name in node.output}

    def array(self, name: str) -> npt.NDArray[Any]:
        """The value of a constant."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._constants[name])

    def keep(self, node: "NodeProto") -> None:
        """Takes over a node of the source."""
        self._nodes.append(node)

    def constant(self, name: str, array: npt.NDArray[np.generic]) -> str:
        """Adds a constant under this name, or one like it; returns its name."""
        from onnx import numpy_helper

        name = self._unused(name)
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, op: str, reads: list[str], name: str, *, replaces: bool = False, **attributes: Any) -> str:
        """Appends a node; returns the tensor it makes.

        Args:
            name: of the node and its tensor, or one like it.
            replaces: the tensor is one of the source's, which this node makes from now on.
        """
        from onnx import helper

        made = name if replaces else self._unused(name)
        self._nodes.append(helper.make_node(op, reads, [made], name=made, **attributes))
        return made

    def finish(self) -> "ModelProto":
        """The rewritten model, without nodes and constants that nobody reads."""
        graph = self._model.graph
        needed = {value.name for value in graph.output}
        kept: list[NodeProto] = []
        for node in reversed(self._nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= tensors_read(node)
        del graph.node[:], graph.initializer[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in needed)
        return self._model

    def _unused(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
