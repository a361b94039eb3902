"""Lower INT8 for TensorRT-RTX: the same numbers, in the form that it compiles well.

Observed in the builder's log and plans of version 1.7:

- A convolution with one weight scale per channel passes FP32 accumulators to the next kernel, and a
  matrix product passes raw accumulators in FP16, which overflow. With one scale for the whole
  weight both apply it, in FP32, before they write FP16. So the weight gets one scale, and what
  remains of each channel's scale becomes a multiplication after it, which joins the next kernel.
- On Turing (SM75) no convolution is compiled to INT8 whatever its Q/DQ: it dequantizes and computes
  in FP16. Matrix products are, so pointwise convolutions become those; the transpositions join the
  kernels around them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.engine.targets import SMS_WITHOUT_INT8_CONVOLUTIONS
from deploykit.onnx_tools.fp16 import FP16_MAX
from deploykit.onnx_tools.products import Product, find_products
from deploykit.onnx_tools.rewriter import GraphEdit, node_attributes

if TYPE_CHECKING:
    from onnx import ModelProto

_LARGEST_PRODUCT = 127 * 127
_LARGEST_SCALE = 2.0**15  # FP16's largest power of two


def lower_for_rtx(model: "ModelProto", *, sm: int | None) -> "ModelProto":
    """Return a copy of a Q/DQ model for this compute capability; None means the portable engine."""
    edit = GraphEdit(model)
    products = {product.output: product for product in find_products(model) if product.is_int8}
    for node in edit.source:
        product = products.get(node.output[0])
        if product is None:
            edit.keep(node)
        elif product.op == "Conv" and product.is_matrix_product and sm in SMS_WITHOUT_INT8_CONVOLUTIONS:
            _write_as_matrix_product(product, edit)
        else:
            _write_with_one_scale(product, edit, node_attributes(node))
    return edit.finish()


def shared_scale(activation_scale: float, inner: int) -> float:
    """Return the largest power of two as weight scale with which no sum of `inner` products leaves FP16."""
    bound = FP16_MAX / (_LARGEST_PRODUCT * inner * activation_scale)
    return min(float(2.0 ** np.floor(np.log2(bound))), _LARGEST_SCALE)


def _write_with_one_scale(product: Product, edit: GraphEdit, attributes: dict[str, Any]) -> None:
    """Append the product with one weight scale, then the channels' factors and the bias."""
    name = product.output
    shape = (1, -1, 1, 1) if product.op == "Conv" else (-1,)
    weight, factors, bias = _write_constants(product, edit, shape, transposed=False)
    x = edit.node(product.op, [product.activation, weight], f"{name}.product", **attributes)
    x = edit.node("Mul", [x, factors], f"{name}.scaled")
    edit.node("Add", [x, bias], name, replaces=True)


def _write_as_matrix_product(product: Product, edit: GraphEdit) -> None:
    """Append a pointwise convolution as a matrix product with one weight scale, on channels last."""
    name = product.output
    weight, factors, bias = _write_constants(product, edit, (-1,), transposed=True)
    x = edit.node("Transpose", [product.activation], f"{name}.channels_last", perm=[0, 2, 3, 1])
    x = edit.node("MatMul", [x, weight], f"{name}.product")
    x = edit.node("Mul", [x, factors], f"{name}.scaled")
    x = edit.node("Add", [x, bias], f"{name}.shifted")
    edit.node("Transpose", [x], name, replaces=True, perm=[0, 3, 1, 2])


def _write_constants(
    product: Product, edit: GraphEdit, shape: tuple[int, ...], *, transposed: bool
) -> tuple[str, str, str]:
    """Append the weight with its shared scale, and the factors and bias that follow in this shape.

    Args:
        transposed: write a 1x1 convolution's weight as (inputs, outputs).

    Returns:
        The dequantized weight, the factors and the bias.
    """
    name, values = product.output, edit.array(product.weight)
    scales = edit.array(product.weight_scale or "")
    bias = edit.array(product.bias) if product.bias is not None else np.zeros_like(scales)
    inner = values.size // scales.size
    scale = shared_scale(float(edit.array(product.activation_scale or "")), inner)
    reads = [
        edit.constant(f"{name}.weight_values", values[:, :, 0, 0].T.copy() if transposed else values),
        edit.constant(f"{name}.weight_scale", np.array(scale, np.float32)),
        edit.constant(f"{name}.weight_zero", np.array(0, np.int8)),
    ]
    weight = edit.node("DequantizeLinear", reads, f"{name}.weight")
    factors = edit.constant(f"{name}.factors", (scales / np.float32(scale)).reshape(shape))
    return weight, factors, edit.constant(f"{name}.shift", bias.reshape(shape))
