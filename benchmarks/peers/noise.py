"""What part of INT8's noise better weights or biases could take away."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[np.float32]


def with_float_activations(model: "ModelProto") -> "ModelProto":
    """A copy of a Q/DQ model that rounds weights alone."""
    copy = type(model)()
    copy.CopyFrom(model)
    quantizers = {node.output[0]: node for node in copy.graph.node if node.op_type == "QuantizeLinear"}
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantizers:
            (dequantized,) = node.output
            node.op_type, node.input[:] = "Identity", [quantizers[node.input[0]].input[0]]
            node.output[:] = [dequantized]
            del node.attribute[:]
    return copy


def systematic_share(outputs: Array, reference: Array) -> float:
    """Part of the noise's power that is the same for all images, and that biases could take away; 0 to 1."""
    noise = outputs.astype(np.float64) - reference
    return float(np.square(noise.mean(axis=0)).mean() / np.square(noise).mean())
