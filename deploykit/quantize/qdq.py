"""Puts explicit Q/DQ into a graph: the nodes of a placement compute in INT8, symmetric.

Activations get a QuantizeLinear / DequantizeLinear pair, per tensor; weights are stored as int8
before a DequantizeLinear, per output channel. Zero points are all zero, as TensorRT requires.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.quantize.placement import QuantizedNode
from deploykit.quantize.ranges import Ranges

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

INT8_MAX = 127
# FP16's smallest number above zero: a scale must survive the conversion to FP16, and be positive.
SMALLEST_SCALE = 2.0**-24


def insert_qdq(model: "ModelProto", placement: Iterable[QuantizedNode], ranges: Ranges) -> "ModelProto":
    """A copy of the FP32 model in which the placement's nodes compute in INT8.

    Raises:
        DeployError: the ranges lack one of the placement's activations.
    """
    import onnx

    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    chosen = {node.output: node for node in placement}
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in quantized.graph.node:
        if spec := chosen.get(node.output[0]):
            if spec.activation not in done:
                nodes += _activation_pair(spec.activation, ranges.amax(spec.activation), constants)
            if spec.weight not in done:
                nodes.append(_weight(spec, constants))
            done |= {spec.activation, spec.weight}
            node.input[0], node.input[1] = _dequantized(spec.activation), _dequantized(spec.weight)
        nodes.append(node)
    _replace(quantized.graph.node, nodes)
    _replace(quantized.graph.initializer, list(constants.values()))
    return quantized


def scales_for(amax: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Step sizes for the given magnitudes, positive and exactly representable in FP16."""
    steps = np.asarray(amax, np.float64) / INT8_MAX
    return np.maximum(steps.astype(np.float16).astype(np.float32), np.float32(SMALLEST_SCALE))


def _activation_pair(tensor: str, amax: float, constants: dict[str, "TensorProto"]) -> list["NodeProto"]:
    from onnx import helper, numpy_helper

    scale, zero, quantized = f"{tensor}.scale", f"{tensor}.zero_point", f"{tensor}.quantized"
    constants[scale] = numpy_helper.from_array(scales_for(amax).reshape(()), scale)
    constants[zero] = numpy_helper.from_array(np.zeros((), np.int8), zero)
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [quantized], name=quantized),
        helper.make_node(
            "DequantizeLinear", [quantized, scale, zero], [_dequantized(tensor)], name=_dequantized(tensor)
        ),
    ]


def _weight(spec: QuantizedNode, constants: dict[str, "TensorProto"]) -> "NodeProto":
    """Replaces the weight by its int8 values; returns the node that gives it back as float."""
    from onnx import helper, numpy_helper

    weight = numpy_helper.to_array(constants.pop(spec.weight))
    other_axes = tuple(axis for axis in range(weight.ndim) if axis != spec.channel_axis)
    scales = scales_for(np.abs(weight).max(axis=other_axes, keepdims=True))
    values = np.clip(np.rint(weight / scales), -INT8_MAX, INT8_MAX).astype(np.int8)
    quantized, scale, zero = (f"{spec.weight}.{part}" for part in ("quantized", "scale", "zero_point"))
    constants[quantized] = numpy_helper.from_array(values, quantized)
    constants[scale] = numpy_helper.from_array(scales.reshape(-1), scale)
    constants[zero] = numpy_helper.from_array(np.zeros(scales.size, np.int8), zero)
    return helper.make_node(
        "DequantizeLinear",
        [quantized, scale, zero],
        [_dequantized(spec.weight)],
        name=_dequantized(spec.weight),
        axis=spec.channel_axis,
    )


def _dequantized(tensor: str) -> str:
    return f"{tensor}.dequantized"


def _replace(field: "object", values: list["NodeProto"] | list["TensorProto"]) -> None:
    del field[:]  # type: ignore[attr-defined]  # protobuf's repeated fields have no common type
    field.extend(values)  # type: ignore[attr-defined]
