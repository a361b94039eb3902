"""Puts explicit Q/DQ into a graph: what a placement names computes in INT8, symmetric.

Activations get a QuantizeLinear / DequantizeLinear pair, per tensor; weights are stored as int8
before a DequantizeLinear, per output channel. Zero points are all zero, as TensorRT requires.

A range that lies to one side of zero, as those behind Swish do, would waste half of INT8's levels.
Such a tensor is centred: its range's middle is subtracted before QuantizeLinear, in the elementwise
kernel that writes the tensor anyway, and what it contributes to a convolution, a constant where
there is no padding, goes into the bias.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.onnx_tools.fp16 import FP16_MAX, FP16_SMALLEST
from deploykit.onnx_tools.products import Product
from deploykit.onnx_tools.rewriter import GraphEdit
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.placement import Placement

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

INT8_MAX = 127
CENTRING_THRESHOLD = 0.9
"""A tensor is centred where that narrows its step to this part of what it was, or less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationStep:
    """How a tensor becomes INT8: round((x - centre) / step), both exact in FP16."""

    centre: float
    step: float


def insert_qdq(model: "ModelProto", placement: Placement, ranges: Ranges) -> "ModelProto":
    """A copy of the FP32 model in which the placement computes in INT8.

    Raises:
        DeployError: the ranges lack one of the placement's activations.
    """
    edit = GraphEdit(model)
    steps = activation_steps(placement, ranges)
    products = {node.output: node for node in placement.products}
    carried = {(each.output, each.position) for each in placement.dequantized_inputs}
    dequantized: dict[str, str] = {}  # tensor -> the tensor that stands for it after its Q/DQ
    restored: dict[str, str] = {}  # tensor -> the same with its centre added again
    for node in edit.source:
        if product := products.get(node.output[0]):
            name = product.activation
            if name not in dequantized:
                dequantized[name] = _activation_pair(edit, name, steps[name])
            _quantize_product(edit, node, product, dequantized[name], steps[name].centre)
        for position, name in enumerate(node.input):
            if (node.output[0], position) in carried and name in steps:
                if name not in dequantized:
                    dequantized[name] = _activation_pair(edit, name, steps[name])
                if name not in restored:
                    restored[name] = _shifted(edit, dequantized[name], steps[name].centre, f"{name}.restored")
                node.input[position] = restored[name]
        edit.keep(node)
    return edit.finish()


def activation_steps(placement: Placement, ranges: Ranges) -> dict[str, ActivationStep]:
    """The step and centre of each tensor of a placement."""
    fixed = {node.activation for node in placement.products if not node.can_absorb_offset}
    tied = {name: tie for tie in _joined(placement.ties) for name in tie}
    steps = {}
    for name in placement.tensors:
        intervals = [ranges.tensor_range(each) for each in tied.get(name, (name,))]
        low, high = min(each.low for each in intervals), max(each.high for each in intervals)
        amax, half = max(-low, high), (high - low) / 2
        centred = name not in fixed and name not in tied and half < CENTRING_THRESHOLD * amax
        centre = float(np.float16(np.clip((low + high) / 2, -FP16_MAX, FP16_MAX))) if centred else 0.0
        steps[name] = ActivationStep(centre=centre, step=float(fp16_scales(max(high - centre, centre - low))))
    return steps


def _joined(ties: Iterable[tuple[str, ...]]) -> list[set[str]]:
    """The ties, those that share a tensor as one."""
    joined: list[set[str]] = []
    for tie in map(set, ties):
        joined = [
            *(group for group in joined if not group & tie),
            tie.union(*(group for group in joined if group & tie)),
        ]
    return joined


def fp16_scales(amax: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Step sizes for the given magnitudes: finite, above zero, and exactly representable in FP16.

    They are rounded up, so that amax itself is not clipped, up to 127 times FP16's largest number.
    """
    steps = np.clip(np.asarray(amax, np.float64) / INT8_MAX, FP16_SMALLEST, FP16_MAX)
    rounded = steps.astype(np.float16)
    with np.errstate(over="ignore"):  # of FP16's largest, which is not chosen
        up = np.where(rounded < steps, np.nextafter(rounded, np.float16(np.inf)), rounded)
    return up.astype(np.float32)


def quantize_weight(
    weight: npt.NDArray[np.float32], channel_axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """The weight's int8 values, and a scale for each output channel."""
    other_axes = tuple(axis for axis in range(weight.ndim) if axis != channel_axis)
    scales = fp16_scales(np.abs(weight).max(axis=other_axes, keepdims=True))
    values = np.clip(np.rint(weight / scales), -INT8_MAX, INT8_MAX).astype(np.int8)
    return values, scales.reshape(-1)


def _activation_pair(edit: GraphEdit, tensor: str, step: ActivationStep) -> str:
    scale = edit.constant(f"{tensor}.scale", np.array(step.step, np.float32))
    zero = edit.constant(f"{tensor}.zero_point", np.zeros((), np.int8))
    centred = _shifted(edit, tensor, -step.centre, f"{tensor}.centred")
    quantized = edit.node("QuantizeLinear", [centred, scale, zero], f"{tensor}.quantized")
    return edit.node("DequantizeLinear", [quantized, scale, zero], f"{tensor}.dequantized")


def _shifted(edit: GraphEdit, tensor: str, by: float, name: str) -> str:
    if not by:
        return tensor
    return edit.node("Add", [tensor, edit.constant(f"{name}.by", np.array(by, np.float32))], name)


def _quantize_product(
    edit: GraphEdit, node: "NodeProto", product: Product, activation: str, centre: float
) -> None:
    """Makes the node read the dequantized activation and weight, and its bias make up for the centre."""
    values, scales = quantize_weight(edit.array(product.weight), product.channel_axis)
    name = product.output  # not the weight's: products may share one, and be laid out differently
    reads = [
        edit.constant(f"{name}.weight_quantized", values),
        edit.constant(f"{name}.weight_scale", scales),
        edit.constant(f"{name}.weight_zero_point", np.zeros(scales.size, np.int8)),
    ]
    weight = edit.node("DequantizeLinear", reads, f"{name}.weight_dequantized", axis=product.channel_axis)
    node.input[0], node.input[1] = activation, weight
    if centre:
        other_axes = tuple(axis for axis in range(values.ndim) if axis != product.channel_axis)
        contribution = centre * scales.astype(np.float64) * values.sum(axis=other_axes, dtype=np.float64)
        _add_to_bias(edit, node, product, contribution)


def _add_to_bias(
    edit: GraphEdit, node: "NodeProto", product: Product, contribution: npt.NDArray[np.float64]
) -> None:
    bias = edit.array(node.input[2]) if len(node.input) > 2 else np.zeros_like(contribution)
    made = edit.constant(f"{product.output}.bias", (bias + contribution).astype(np.float32))
    if len(node.input) > 2:
        node.input[2] = made
    else:
        node.input.append(made)
