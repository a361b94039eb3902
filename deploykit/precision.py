"""FP32 ONNX -> FP16 ONNX, with the input and output left as FP32."""

from typing import TYPE_CHECKING

import numpy as np

from deploykit.errors import DeployError
from deploykit.extras import require

if TYPE_CHECKING:
    from onnx import ModelProto

FP16_MAX = float(np.finfo(np.float16).max)
FP16_SMALLEST = 2.0**-24


def to_fp16(model: "ModelProto") -> "ModelProto":
    """A copy of the model that computes in FP16; Q/DQ pairs stay, their scales in FP16.

    Raises:
        DeployError: a weight is beyond FP16's range.
    """
    from onnx import ModelProto, numpy_helper

    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and np.abs(values).max(initial=0) > FP16_MAX:
            raise DeployError(
                f"{tensor.name} holds a weight of {np.abs(values).max():.3g}, beyond FP16's {FP16_MAX:g}.",
                fix="build it as FP32, with --fp32",
            )
    copy = ModelProto()
    copy.CopyFrom(model)
    converter = require("onnxruntime.transformers.float16")
    converted: ModelProto = converter.convert_float_to_float16(
        copy, keep_io_types=True, min_positive_val=FP16_SMALLEST, max_finite_val=FP16_MAX
    )
    _casts_of_inputs_first(converted)
    return converted


def _casts_of_inputs_first(model: "ModelProto") -> None:
    """The converter appends them, and ONNX wants nodes after what they read."""
    inputs = {value.name for value in model.graph.input}
    nodes = sorted(
        model.graph.node, key=lambda node: not (node.op_type == "Cast" and node.input[0] in inputs)
    )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
