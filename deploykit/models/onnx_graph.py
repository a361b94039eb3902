"""Network + weights -> ONNX, batch norms folded.

Written straight from the Network rather than traced from torch: nodes keep the network's layer
names, equal weights give equal bytes, and nothing of the machine gets into the file.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.architecture.graph import (
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
from deploykit.model_file import BATCH_NAME, INPUT_NAME, OUTPUT_NAME, ModelInfo, stamp
from deploykit.models.weights import State, Weights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET = 20
IR_VERSION = 10  # the oldest that has opset 20's types; newer ones shut out older runtimes

Array = npt.NDArray[np.float32]


def onnx_model(network: Network, weights: Weights, info: ModelInfo) -> "ModelProto":
    """The network as ONNX: `input` (batch, 3, side, side) float32 -> `logits` (batch, classes)."""
    from onnx import TensorProto, helper, numpy_helper

    arrays: dict[str, Array] = {}
    nodes = [node for layer in network.layers for node in _nodes(layer, network, weights.state, arrays)]
    graph = helper.make_graph(
        nodes,
        info.family,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [BATCH_NAME, *network.input])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [BATCH_NAME, network.num_classes])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "deploykit"
    stamp(model, info)
    return model


def folded(layer: Convolution, state: State, *, epsilon: float) -> tuple[Array, Array]:
    """Weight and bias of the convolution with its batch norm folded in, (out, in, k, k) and (out,).

    References:
        Jacob et al., arXiv:1712.05877, section 3.2.
    """
    weight = state[f"{layer.name}.weight"]
    if layer.norm is None:
        return weight, state[f"{layer.name}.bias"]
    gamma, beta, mean, variance = (
        state[f"{layer.norm}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(variance + epsilon)
    return (weight * factor[:, None, None, None]).astype(np.float32), (beta - mean * factor).astype(
        np.float32
    )


def _nodes(layer: Layer, network: Network, state: State, arrays: dict[str, Array]) -> list["NodeProto"]:
    """The nodes of one layer, named after it; its constants go into arrays."""
    from onnx import helper

    output = OUTPUT_NAME if layer is network.layers[-1] else layer.name
    inputs = [INPUT_NAME if name == INPUT else name for name in layer.inputs]
    weight_name, bias_name = f"{layer.name}.weight", f"{layer.name}.bias"

    def node(op: str, reads: list[str], **attributes: Any) -> "NodeProto":
        return helper.make_node(op, reads, [output], name=layer.name, **attributes)

    match layer:
        case Convolution():
            arrays[weight_name], arrays[bias_name] = folded(layer, state, epsilon=network.norm_epsilon)
            geometry = {
                "kernel_shape": [layer.kernel] * 2,
                "strides": [layer.stride] * 2,
                "pads": [layer.padding[0]] * 2 + [layer.padding[1]] * 2,
                "group": layer.groups,
            }
            return [node("Conv", [*inputs, weight_name, bias_name], **geometry)]
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
                    pads=[layer.padding[0]] * 2 + [layer.padding[1]] * 2,
                )
            ]
        case GlobalAveragePool():
            return [node("GlobalAveragePool", inputs)]
        case Add():
            return [node("Add", inputs)]
        case ChannelScale():
            return [node("Mul", inputs)]
    raise NotImplementedError(type(layer).__name__)
