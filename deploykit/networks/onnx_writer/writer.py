"""Writing a Network and its weights as ONNX, with batch norms folded.

The graph is written from the Network rather than traced from torch: nodes keep the layers' names, equal
weights give equal bytes, and the file contains nothing about the machine.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.networks.architecture.network import (
    INPUT,
    Activation,
    Add,
    ChannelScale,
    Convolution,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
)
from deploykit.networks.checkpoints.weights import StateDict, Weights
from deploykit.networks.model_info import ModelInfo, set_model_info
from deploykit.networks.onnx_writer.nodes import LayerNodes
from deploykit.networks.onnx_writer.pyramid import add_pyramid_nodes
from deploykit.networks.weight_folding import fold_batch_norm, norm_epsilon
from deploykit.onnx_tools.model_io import BATCH_NAME, INPUT_NAME
from deploykit.util.array_types import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET = 20
IR_VERSION = 10  # the oldest with opset 20's types; newer ones exclude older runtimes


def build_onnx_model(network: Network, weights: Weights, info: ModelInfo) -> "ModelProto":
    """Build the ONNX model, from `input`, (batch, 3, side, side) float32, to `logits`, (batch, classes).

    A detector has its own outputs instead of logits.
    Layers that share a weight share its tensor, unless different batch norms are folded into it.

    Args:
        network: The network.
        weights: Its parameters.
        info: The description to store as metadata.
    """
    from onnx import TensorProto, helper, numpy_helper

    arrays: dict[str, Array] = {}
    nodes = [node for layer in network.layers for node in _nodes(layer, network, weights.state, arrays)]
    graph = helper.make_graph(
        nodes,
        info.family,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [BATCH_NAME, *network.input])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH_NAME, *shape])
            for name, shape in network.output_shapes.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "deploykit"
    set_model_info(model, info)
    return model


def _padding(layer: Convolution | MaxPool, network: Network) -> dict[str, Any]:
    """Return the padding as numbers, or TensorFlow's by name, which is right for other sides too."""
    if network.same_padding and layer.kernel > 1:
        return {"auto_pad": "SAME_UPPER"}
    return {"pads": [layer.padding[0]] * 2 + [layer.padding[1]] * 2}


def _nodes(layer: Layer, network: Network, state: StateDict, arrays: dict[str, Array]) -> list["NodeProto"]:
    """Return the nodes of one layer, named after it, and add its constants to arrays."""
    from onnx import helper

    tensor_names = {each.layer: each.name for each in network.named_outputs} | {INPUT: INPUT_NAME}
    output = tensor_names.get(layer.name, layer.name)
    inputs = [tensor_names.get(name, name) for name in layer.inputs]
    weight_name, bias_name = f"{layer.name}.weight", f"{layer.name}.bias"

    def node(op: str, reads: list[str], **attributes: Any) -> "NodeProto":
        return helper.make_node(op, reads, [output], name=layer.name, **attributes)

    match layer:
        case Convolution():
            if layer.norm is None:
                weight_name, bias_name = f"{layer.prefix}.weight", f"{layer.prefix}.bias"
            arrays[weight_name], bias = fold_batch_norm(layer, state, epsilon=norm_epsilon(layer, network))
            reads = [*inputs, weight_name]
            if bias is not None:
                arrays[bias_name] = bias
                reads.append(bias_name)
            geometry = {
                "kernel_shape": [layer.kernel] * 2,
                "strides": [layer.stride] * 2,
                "group": layer.groups,
                **_padding(layer, network),
            }
            return [node("Conv", reads, **geometry)]
        case Linear():
            arrays[weight_name], arrays[bias_name] = state[weight_name], state[bias_name]
            flat = f"{layer.name}.flatten"
            return [
                helper.make_node("Flatten", inputs, [flat], name=flat, axis=1),
                node("Gemm", [flat, weight_name, bias_name], transB=1),
            ]
        case Activation(kind="silu"):
            gate = f"{layer.name}.sigmoid"
            return [helper.make_node("Sigmoid", inputs, [gate], name=gate), node("Mul", [inputs[0], gate])]
        case Activation(kind="sigmoid"):
            return [node("Sigmoid", inputs)]
        case Activation(kind="relu"):
            return [node("Relu", inputs)]
        case Activation(kind="relu6"):
            low, high = f"{layer.name}.min", f"{layer.name}.max"
            arrays[low], arrays[high] = np.array(0, np.float32), np.array(6, np.float32)
            return [node("Clip", [*inputs, low, high])]
        case MaxPool():
            return [
                node(
                    "MaxPool",
                    inputs,
                    kernel_shape=[layer.kernel] * 2,
                    strides=[layer.stride] * 2,
                    **_padding(layer, network),
                )
            ]
        case GlobalAveragePool():
            return [node("GlobalAveragePool", inputs)]
        case Add():
            return [node("Add", inputs)]
        case ChannelScale():
            return [node("Mul", inputs)]
    layer_nodes = LayerNodes(layer.name, output, arrays)
    add_pyramid_nodes(layer, inputs, network, state, layer_nodes)
    return layer_nodes.nodes
