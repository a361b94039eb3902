"""Puts explicit Q/DQ into a graph: the nodes of a placement compute in INT8, symmetric.

Activations get a QuantizeLinear / DequantizeLinear pair, per tensor; weights are stored as int8
before a DequantizeLinear, per output channel. Zero points are all zero, as TensorRT requires.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.graph_edit import GraphEdit
from deploykit.precision import FP16_MAX, FP16_SMALLEST
from deploykit.quantize.placement import QuantizedNode
from deploykit.quantize.ranges import Ranges

if TYPE_CHECKING:
    from onnx import ModelProto

INT8_MAX = 127


def insert_qdq(model: "ModelProto", placement: Iterable[QuantizedNode], ranges: Ranges) -> "ModelProto":
    """A copy of the FP32 model in which the placement's nodes compute in INT8.

    Raises:
        DeployError: the ranges lack one of the placement's activations.
    """
    edit = GraphEdit(model)
    chosen = {node.output: node for node in placement}
    dequantized: dict[str, str] = {}  # tensor -> the tensor that stands for it after its Q/DQ
    for node in edit.source:
        if spec := chosen.get(node.output[0]):
            if spec.activation not in dequantized:
                amax = ranges.amax(spec.activation)
                dequantized[spec.activation] = _activation_pair(edit, spec.activation, amax)
            if spec.weight not in dequantized:
                dequantized[spec.weight] = _weight(edit, spec)
            node.input[0], node.input[1] = dequantized[spec.activation], dequantized[spec.weight]
        edit.keep(node)
    return edit.finish()


def scales_for(amax: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Step sizes for the given magnitudes: finite, above zero, and exactly representable in FP16.

    They are rounded up, so that amax itself is not clipped, up to 127 times FP16's largest number.
    """
    steps = np.clip(np.asarray(amax, np.float64) / INT8_MAX, FP16_SMALLEST, FP16_MAX)
    rounded = steps.astype(np.float16)
    up = np.where(rounded < steps, np.nextafter(rounded, np.float16(np.inf)), rounded)
    return up.astype(np.float32)


def _activation_pair(edit: GraphEdit, tensor: str, amax: float) -> str:
    scale = edit.constant(f"{tensor}.scale", scales_for(amax).reshape(()))
    zero = edit.constant(f"{tensor}.zero_point", np.zeros((), np.int8))
    quantized = edit.node("QuantizeLinear", [tensor, scale, zero], f"{tensor}.quantized")
    return edit.node("DequantizeLinear", [quantized, scale, zero], f"{tensor}.dequantized")


def _weight(edit: GraphEdit, spec: QuantizedNode) -> str:
    """Adds the weight's int8 values and the node that gives them back as float."""
    weight = edit.array(spec.weight)
    other_axes = tuple(axis for axis in range(weight.ndim) if axis != spec.channel_axis)
    scales = scales_for(np.abs(weight).max(axis=other_axes, keepdims=True))
    values = np.clip(np.rint(weight / scales), -INT8_MAX, INT8_MAX).astype(np.int8)
    reads = [
        edit.constant(f"{spec.weight}.quantized", values),
        edit.constant(f"{spec.weight}.scale", scales.reshape(-1)),
        edit.constant(f"{spec.weight}.zero_point", np.zeros(scales.size, np.int8)),
    ]
    return edit.node("DequantizeLinear", reads, f"{spec.weight}.dequantized", axis=spec.channel_axis)
