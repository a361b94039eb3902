"""INT8 as TensorRT-RTX compiles it well: the same numbers, spelled in another way.

What its builder's log and plans show, version 1.7:

- A convolution with one weight scale a channel hands FP32 accumulators to the next kernel, and a
  matrix product hands on raw accumulators in FP16, which overflow. With one scale for the whole
  weight both apply it, in FP32, before they write FP16. So the weight gets one scale, and what is
  left of the channels' own becomes a multiplication behind, which joins the kernel that follows.
- On Turing (SM75) no convolution is compiled to INT8 whatever its Q/DQ: it dequantizes and computes
  in FP16. Matrix products are, so pointwise convolutions become those; the transpositions join the
  kernels around.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.targets import SMS_WITHOUT_INT8_CONVOLUTIONS
from deploykit.onnx_tools.fp16 import FP16_MAX
from deploykit.onnx_tools.rewriter import GraphEdit, attributes_of, is_matrix_product
from deploykit.util.array_types import Float32Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LARGEST_PRODUCT = 127 * 127
_LARGEST_SCALE = 2.0**15  # FP16's largest power of two


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """A convolution or linear layer between Q/DQ pairs, taken apart.

    Attributes:
        op: `Conv`, `Gemm` or `MatMul`.
        activation: the tensor it reads, dequantized.
        activation_scale: that tensor's step.
        values: the weight, int8.
        scales: the weight's step a channel.
        bias: zeros where it has none.
        output: the tensor it makes.
    """

    op: str
    activation: str
    activation_scale: float
    values: npt.NDArray[np.int8]
    scales: Float32Array
    bias: Float32Array
    output: str
    attributes: dict[str, Any]

    @property
    def inner(self) -> int:
        """How many products each output sums."""
        return self.values.size // self.scales.size

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a convolution that a matrix product could be."""
        return is_matrix_product(self.attributes, self.values.shape[2:])


def respell(model: "ModelProto", *, sm: int | None) -> "ModelProto":
    """A copy of a Q/DQ model for this compute capability (None: the portable engine)."""
    edit = GraphEdit(model)
    makers = {node.output[0]: node for node in edit.source if node.op_type == "DequantizeLinear"}
    for node in edit.source:
        if node.op_type in ("Conv", "Gemm", "MatMul") and set(node.input[:2]) <= makers.keys():
            product = _take_apart(node, makers, edit)
            as_matrix = product.is_pointwise and sm in SMS_WITHOUT_INT8_CONVOLUTIONS
            _spell(product, edit, as_matrix=as_matrix)
        else:
            edit.keep(node)
    return edit.finish()


def shared_scale(activation_scale: float, inner: int) -> float:
    """One weight scale, a power of two, with which no sum of `inner` INT8 products leaves FP16."""
    bound = FP16_MAX / (_LARGEST_PRODUCT * inner * activation_scale)
    return min(float(2.0 ** np.floor(np.log2(bound))), _LARGEST_SCALE)


def _take_apart(node: "NodeProto", makers: dict[str, "NodeProto"], edit: GraphEdit) -> _Product:
    activation, weight = makers[node.input[0]], makers[node.input[1]]
    scales = edit.array(weight.input[1])
    return _Product(
        op=node.op_type,
        activation=node.input[0],
        activation_scale=float(edit.array(activation.input[1])),
        values=edit.array(weight.input[0]),
        scales=scales,
        bias=edit.array(node.input[2]) if len(node.input) > 2 else np.zeros_like(scales),
        output=node.output[0],
        attributes=attributes_of(node),
    )


def _spell(product: _Product, edit: GraphEdit, *, as_matrix: bool) -> None:
    """Appends the product with one weight scale, then the channels' factors and the bias."""
    name, x = product.output, product.activation
    scale = shared_scale(product.activation_scale, product.inner)
    values = product.values[:, :, 0, 0].T.copy() if as_matrix else product.values
    weight = edit.node(
        "DequantizeLinear",
        [
            edit.constant(f"{name}.weight_values", values),
            edit.constant(f"{name}.weight_scale", np.array(scale, np.float32)),
            edit.constant(f"{name}.weight_zero", np.array(0, np.int8)),
        ],
        f"{name}.weight",
    )
    shape = (1, -1, 1, 1) if product.op == "Conv" and not as_matrix else (-1,)
    factors = edit.constant(f"{name}.factors", (product.scales / np.float32(scale)).reshape(shape))
    bias = edit.constant(f"{name}.shift", product.bias.reshape(shape))
    if as_matrix:
        x = edit.node("Transpose", [x], f"{name}.channels_last", perm=[0, 2, 3, 1])
        x = edit.node("MatMul", [x, weight], f"{name}.product")
    else:
        x = edit.node(product.op, [x, weight], f"{name}.product", **product.attributes)
    x = edit.node("Mul", [x, factors], f"{name}.scaled")
    x = edit.node("Add", [x, bias], f"{name}.shifted" if as_matrix else name, replaces=not as_matrix)
    if as_matrix:
        edit.node("Transpose", [x], name, replaces=True, perm=[0, 3, 1, 2])
