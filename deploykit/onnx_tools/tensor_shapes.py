"""Infer the shapes of a graph's tensors."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

TensorShape = tuple[int, ...]
"""Dimensions of a tensor; 0 where one is unknown or symbolic."""

_LARGEST_SHAPE_CONSTANT = 1024  # elements; shapes are computed from constants far smaller than this


def infer_tensor_shapes(model: "ModelProto", *, batch: int | None = None) -> dict[str, TensorShape]:
    """Return the shape of every tensor for which one can be inferred, initializers excepted.

    Args:
        batch: first dimension to give the inputs and outputs; None keeps what the model declares.
            With a batch of 1, rows that hold the pixels of many images have a known number.
    """
    from onnx.shape_inference import infer_shapes

    skeleton = _without_weights(model)
    if batch is not None:
        constants = {tensor.name for tensor in model.graph.initializer}
        images = [value for value in skeleton.graph.input if value.name not in constants]
        for value in (*images, *skeleton.graph.output):
            for first in value.type.tensor_type.shape.dim[:1]:
                first.dim_value = batch
    graph = infer_shapes(skeleton).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _without_weights(model: "ModelProto") -> "ModelProto":
    """Copy a model with its large weights declared as inputs, as inference serializes the model."""
    skeleton = type(model)()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    declared = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _LARGEST_SHAPE_CONSTANT:
            graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in declared:
            _declare(graph, tensor)
    return skeleton


def _declare(graph: "GraphProto", tensor: "TensorProto") -> None:
    from onnx import helper

    graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
