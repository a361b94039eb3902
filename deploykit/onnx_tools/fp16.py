"""FP32 ONNX -> FP16 ONNX, with the input and output left as FP32."""

from typing import TYPE_CHECKING

import numpy as np

from deploykit.onnx_tools.model_io import is_kept_in_fp32
from deploykit.onnx_tools.rewriter import tensors_read
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FP16_MAX = float(np.finfo(np.float16).max)
FP16_SMALLEST = 2.0**-24


def to_fp16(model: "ModelProto") -> "ModelProto":
    """A copy of the model that computes in FP16; Q/DQ pairs stay, their scales in FP16.

    Nodes marked to be kept in FP32, and what is made of them, stay as they are.

    Raises:
        DeployError: a weight is beyond FP16's range.
    """
    from onnx import ModelProto, numpy_helper

    body, kept = _without_kept(model)
    for tensor in body.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and np.abs(values).max(initial=0) > FP16_MAX:
            raise DeployError(
                f"{tensor.name} holds a weight of {np.abs(values).max():.3g}, beyond FP16's {FP16_MAX:g}.",
                code="fp16-overflow",
                fix="build it as FP32, with --fp32",
            )
    converter = require("onnxruntime.transformers.float16")
    converted: ModelProto = converter.convert_float_to_float16(
        body, keep_io_types=True, min_positive_val=FP16_SMALLEST, max_finite_val=FP16_MAX
    )
    _casts_of_inputs_first(converted)
    _append(converted, kept, model)
    return converted


def _without_kept(model: "ModelProto") -> "tuple[ModelProto, list[NodeProto]]":
    """A copy that ends where nodes are kept in FP32, and these nodes.

    The converter itself can leave nodes alone, but rounds to FP16 between any two of them.
    """
    from onnx import TensorProto, helper

    body = type(model)()
    body.CopyFrom(model)
    kept: list[NodeProto] = []
    made: set[str] = set()
    for node in model.graph.node:
        if is_kept_in_fp32(node) or made & tensors_read(node):
            kept.append(node)
            made.update(node.output)
    if not kept:
        return body, kept
    nodes = [node for node in model.graph.node if not made.intersection(node.output)]
    read = set[str]().union(*map(tensors_read, kept))
    others = [value for value in model.graph.output if value.name not in made]
    cut = sorted((read & {name for node in nodes for name in node.output}) - {value.name for value in others})
    used = set[str]().union(*map(tensors_read, nodes))
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del body.graph.node[:], body.graph.output[:], body.graph.initializer[:], body.graph.value_info[:]
    body.graph.node.extend(nodes)
    body.graph.initializer.extend(constants)
    body.graph.output.extend(
        [*others, *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in cut)]
    )
    return body, kept


def _append(converted: "ModelProto", kept: "list[NodeProto]", model: "ModelProto") -> None:
    """Puts the nodes behind the converted ones, with their constants and the model's own outputs."""
    if not kept:
        return
    graph = converted.graph
    taken = {tensor.name for tensor in graph.initializer}
    read = set[str]().union(*map(tensors_read, kept))
    renamed = {
        tensor.name: f"{tensor.name}.fp32" for tensor in model.graph.initializer if tensor.name in taken
    }
    for tensor in model.graph.initializer:
        if tensor.name in read:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = renamed.get(tensor.name, tensor.name)
    for node in kept:
        graph.node.add().CopyFrom(node)
        graph.node[-1].input[:] = [renamed.get(name, name) for name in node.input]
    del graph.output[:]
    graph.output.extend(model.graph.output)


def _casts_of_inputs_first(model: "ModelProto") -> None:
    """The converter appends them, and ONNX wants nodes after what they read."""
    inputs = {value.name for value in model.graph.input}
    nodes = sorted(
        model.graph.node, key=lambda node: not (node.op_type == "Cast" and node.input[0] in inputs)
    )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
