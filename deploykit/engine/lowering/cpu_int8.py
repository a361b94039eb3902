"""INT8 as ONNX Runtime computes it on a CPU: in integers, fast, and without saturation.

What its optimized graphs, profiles and results show, version 1.31:

- It has no integer kernel for a convolution with a float output: whatever its Q/DQ, it is computed
  in float, and its weight is dequantized anew in every call. A matrix product with a float output
  has one, QGemm, which adds the bias too. So pointwise convolutions become those, on maps with
  channels last. The transposition before another convolution joins that one's own reordering.
- Without VNNI (AVX2, and AVX-512 before it) the kernel for uint8 activations and int8 weights
  saturates; the one for uint8 weights doesn't, and is no faster than FP32. So weights get steps
  with which nothing can saturate, whatever the activations (engine/lowering/accumulators.py).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.engine.lowering.accumulators import fit_weight
from deploykit.engine.lowering.channels_last import TO_LAST, ChannelsLast
from deploykit.engine.lowering.qdq_products import QdqProduct, find_products
from deploykit.onnx_tools.inline_constants import inline_constants
from deploykit.onnx_tools.rewriter import GraphEdit

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


def respell_for_cpu(model: "ModelProto") -> "ModelProto":
    """A copy of a symmetric Q/DQ model, with Q/DQ still, that ONNX Runtime computes in integers.

    Ranges are the same, and so are the weights where they can't saturate. What is more than a matrix
    product keeps its numbers, as uint8: integer kernels are found for a part of it, slow ones.
    """
    model = inline_constants(model)
    edit = GraphEdit(model)
    products = find_products(model, edit)
    outputs = [value.name for value in model.graph.output]
    needed = _needed(edit, products, outputs)
    constants = {tensor.name for tensor in model.graph.initializer}
    scalars = (tensor.name for tensor in model.graph.initializer if np.prod(tensor.dims) == 1)
    maps = ChannelsLast(edit, scalars)
    rows: dict[object, tuple[str, float]] = {}  # activation, quantized so -> what products read, and its step
    for node in edit.source:
        product = products.get(node.output[0])
        if product is not None:
            read = (product.activation, product.step, product.offset)
            if read not in rows:
                rows[read] = _write_rows(product, maps, edit)
            _write_product(product, *rows[read], maps, edit)
        elif needed & set(node.output):
            maps.keep(_in_uint8(node, constants, edit) if node.op_type in _QDQ else node)
    maps.write_channels_first(outputs)
    return edit.finish()


def _needed(edit: GraphEdit, products: dict[str, QdqProduct], outputs: Iterable[str]) -> set[str]:
    """Tensors that are read once the products read their activations without the source's Q/DQ."""
    needed = set(outputs)
    for node in reversed(edit.source):
        product = products.get(node.output[0])
        if product is not None:
            needed.add(product.activation)
        elif needed & set(node.output):
            needed.update(node.input)
    return needed


def _in_uint8(node: "NodeProto", constants: set[str], edit: GraphEdit) -> "NodeProto":
    """A Q/DQ node of int8 with its integers, where they are constants, and its zero point moved to uint8."""
    if len(node.input) < 3 or edit.array(node.input[2]).dtype != np.int8:
        return node
    moved = type(node)()
    moved.CopyFrom(node)
    for position, name in enumerate(node.input):
        if position != 1 and name in constants:
            values = edit.array(name).astype(np.int16) + 128
            moved.input[position] = edit.constant(f"{name}.uint8", values.astype(np.uint8))
    return moved


def unsigned(step: float, offset: float) -> tuple[float, int]:
    """Step and zero point with which uint8 holds x where int8 held x + offset in the given step.

    The step is coarser where all such x are of one sign: zero has to be among what uint8 holds.
    """
    zero_point = 128 + round(offset / step)
    if 0 <= zero_point <= 255:
        return step, zero_point
    return max(127 * step - offset, 128 * step + offset) / 255, 0 if offset < 0 else 255


def _write_rows(product: QdqProduct, maps: ChannelsLast, edit: GraphEdit) -> tuple[str, float]:
    """Appends the activation's Q/DQ pair.

    Returns:
        The activation as a matrix, (images and pixels, channels), and its step.
    """
    name = product.activation
    step, zero_point = unsigned(product.step, product.offset)
    scale = edit.constant(f"{name}.step", np.array(step, np.float32))
    zero = edit.constant(f"{name}.zero", np.array(zero_point, np.uint8))
    channels_last = maps.find(name) if product.is_convolution else None
    x = edit.node("QuantizeLinear", [channels_last or name, scale, zero], f"{name}.unsigned")
    x = edit.node("DequantizeLinear", [x, scale, zero], f"{name}.rounded")
    if not product.is_convolution:
        return x, step
    if channels_last is None:
        x = edit.node("Transpose", [x], f"{name}.transposed", perm=TO_LAST)
    shape = edit.constant(f"{name}.rows_shape", np.array([-1, len(product.values)], np.int64))
    return edit.node("Reshape", [x, shape], f"{name}.rows"), step


def _write_product(product: QdqProduct, rows: str, step: float, maps: ChannelsLast, edit: GraphEdit) -> None:
    name = product.output
    values, scales = fit_weight(product.values, product.scales, bias=product.bias, activation_step=step)
    steps = (np.float32(step) * scales).astype(np.float32)
    bias = np.rint(product.bias / steps.astype(np.float64)).astype(np.int32)
    reads = [rows, _dequantized(edit, f"{name}.weight", values, scales, axis=1)]
    reads.append(_dequantized(edit, f"{name}.bias", bias, steps, axis=0))
    if not product.is_convolution:
        edit.node("Gemm", reads, name, replaces=True)
        return
    y = edit.node("Gemm", reads, f"{name}.product")
    _, channels, height, width = product.shape
    shape = edit.constant(f"{name}.map_shape", np.array([-1, height, width, channels], np.int64))
    maps.add(name, edit.node("Reshape", [y, shape], f"{name}.map"))


def _dequantized(
    edit: GraphEdit, name: str, values: npt.NDArray[np.integer], scales: npt.NDArray[np.float32], *, axis: int
) -> str:
    """Appends a constant and the node that gives it back as float."""
    reads = [
        edit.constant(f"{name}_values", values),
        edit.constant(f"{name}_scale", scales),
        edit.constant(f"{name}_zero", np.zeros(scales.size, values.dtype)),
    ]
    return edit.node("DequantizeLinear", reads, name, axis=axis)
