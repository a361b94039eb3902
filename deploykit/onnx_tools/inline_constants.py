"""Constants of a graph where rewriting looks for them: among the initializers, read directly."""

from typing import TYPE_CHECKING

from deploykit.onnx_tools.rewriter import tensors_read

if TYPE_CHECKING:
    from onnx import ModelProto


def inline_constants(model: "ModelProto") -> "ModelProto":
    """A copy without Constant nodes, and without Identity nodes on constants, as exporters leave them."""
    inlined = type(model)()
    inlined.CopyFrom(model)
    graph = inlined.graph
    outputs = {value.name for value in graph.output}
    standing_for = {tensor.name: tensor.name for tensor in graph.initializer}
    in_subgraphs = {name for node in graph.node for name in tensors_read(node) - set(node.input)}
    kept = []
    for node in graph.node:
        node.input[:] = [standing_for.get(name, name) for name in node.input]
        made = node.output[0]
        tensor = next((item.t for item in node.attribute if item.name == "value"), None)
        if made in outputs | in_subgraphs:
            kept.append(node)
        elif node.op_type == "Constant" and tensor is not None:
            tensor.name = made
            graph.initializer.append(tensor)
            standing_for[made] = made
        elif node.op_type == "Identity" and node.input[0] in standing_for:
            standing_for[made] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    return inlined
