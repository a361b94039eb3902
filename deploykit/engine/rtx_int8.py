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
from deploykit.precision import FP16_MAX

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_LARGEST_PRODUCT = 127 * 127

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """A convolution or linear layer between Q/DQ pairs, taken apart."""

    node: "NodeProto"
    weight: "NodeProto"  # its DequantizeLinear
    values: npt.NDArray[np.int8]
    scales: Array
    activation_scale: float
    bias: Array


def respell(model: "ModelProto", *, sm: int | None) -> "ModelProto":
    """A copy of a Q/DQ model for this compute capability (None: the portable engine)."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    dequantizers = {node.output[0]: node for node in copy.graph.node if node.op_type == "DequantizeLinear"}
    replaced: dict[str, list[NodeProto]] = {}
    for node in copy.graph.node:
        product = _product(node, dequantizers, constants)
        if product is not None:
            as_matrix = sm in SMS_WITHOUT_INT8_CONVOLUTIONS and _is_pointwise(product)
            replaced[node.output[0]] = _spelled(product, constants, as_matrix=as_matrix)
    nodes = [new for node in copy.graph.node for new in replaced.get(node.output[0], [node])]
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(constants.values())
    return copy


def shared_scale(activation_scale: float, inner: int) -> float:
    """One weight scale, a power of two, with which no sum of `inner` INT8 products leaves FP16."""
    bound = FP16_MAX / (_LARGEST_PRODUCT * inner * activation_scale)
    return float(2.0 ** np.floor(np.log2(bound)))


def _product(
    node: "NodeProto", dequantizers: dict[str, "NodeProto"], constants: dict[str, "TensorProto"]
) -> _Product | None:
    from onnx import numpy_helper

    if node.op_type not in ("Conv", "Gemm") or not {node.input[0], node.input[1]} <= dequantizers.keys():
        return None
    activation, weight = dequantizers[node.input[0]], dequantizers[node.input[1]]
    arrays = {name: numpy_helper.to_array(constants[name]) for name in (*weight.input, activation.input[1])}
    scales = arrays[weight.input[1]]
    bias = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else np.zeros_like(scales)
    return _Product(
        node=node,
        weight=weight,
        values=arrays[weight.input[0]],
        scales=scales,
        activation_scale=float(arrays[activation.input[1]]),
        bias=bias,
    )


def _is_pointwise(product: _Product) -> bool:
    strides = next((list(item.ints) for item in product.node.attribute if item.name == "strides"), [1, 1])
    return product.node.op_type == "Conv" and product.values.shape[2:] == (1, 1) and strides == [1, 1]


def _spelled(product: _Product, constants: dict[str, "TensorProto"], *, as_matrix: bool) -> list["NodeProto"]:
    """The product with one weight scale, then the channels' factors and the bias, as nodes of their own."""
    from onnx import helper, numpy_helper

    node, name = product.node, product.node.output[0]
    scale = shared_scale(product.activation_scale, product.values[0].size)

    def constant(suffix: str, array: npt.NDArray[np.generic]) -> str:
        constants[f"{name}.{suffix}"] = numpy_helper.from_array(array, f"{name}.{suffix}")
        return f"{name}.{suffix}"

    def step(op: str, reads: list[str], suffix: str, **attributes: Any) -> str:
        made = f"{name}.{suffix}" if suffix else name
        steps.append(helper.make_node(op, reads, [made], name=made, **attributes))
        return made

    steps: list[NodeProto] = []
    product.weight.input[1] = constant("weight_scale", np.array(scale, np.float32))
    product.weight.input[2] = constant("weight_zero", np.array(0, np.int8))
    del product.weight.attribute[:]
    shape = (1, -1) if node.op_type == "Gemm" else (-1,) if as_matrix else (1, -1, 1, 1)
    if as_matrix:
        constants[product.weight.input[0]].CopyFrom(
            numpy_helper.from_array(
                np.ascontiguousarray(product.values[:, :, 0, 0].T), product.weight.input[0]
            )
        )
        x = step("Transpose", [node.input[0]], "channels_last", perm=[0, 2, 3, 1])
        x = step("MatMul", [x, node.input[1]], "product")
    else:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        x = step(node.op_type, [node.input[0], node.input[1]], "product", **attributes)
    x = step(
        "Mul", [x, constant("channel_factors", (product.scales / np.float32(scale)).reshape(shape))], "scaled"
    )
    x = step("Add", [x, constant("channel_bias", product.bias.reshape(shape))], "biased" if as_matrix else "")
    if as_matrix:
        step("Transpose", [x], "", perm=[0, 3, 1, 2])
    if len(node.input) > 2:
        constants.pop(node.input[2], None)
    return steps
