"""Lower INT8 for ONNX Runtime on a CPU: integer kernels that are fast and never saturate.

Observed in the optimized graphs, profiles and results of ONNX Runtime 1.31:

- There is no integer kernel for a convolution with a float output: whatever its Q/DQ, it is computed
  in float, and its weight is dequantized again in every call. A matrix product with a float output
  has one, QGemm, which adds the bias too. So pointwise convolutions become matrix products, on maps
  with channels last. The transposition before another convolution joins that one's own reordering.
- Without VNNI (AVX2, and AVX-512 before it) the kernel for uint8 activations and int8 weights
  saturates. The one for uint8 weights does not, and is no faster than FP32. So weights get steps
  with which nothing can saturate, whatever the activations (engine/lowering/accumulators.py).
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from deploykit.engine.lowering.accumulators import fit_weight
from deploykit.engine.lowering.channels_last import TO_LAST, ChannelsLast
from deploykit.onnx_tools.inline_constants import inline_constants
from deploykit.onnx_tools.products import Product, find_products
from deploykit.onnx_tools.rewriter import GraphEdit, tensors_read

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_OUTPUT_RANKS = {"Conv": 4, "Gemm": 2, "MatMul": 2}


def lower_for_cpu(model: "ModelProto") -> "ModelProto":
    """Return a copy of a symmetric Q/DQ model, still with Q/DQ, that ONNX Runtime computes in integers.

    Ranges stay the same, and so do weights that cannot saturate. Products that are more than a matrix
    product keep their numbers, as uint8: ONNX Runtime has integer kernels for few of them, and slow ones.
    """
    return _Lowering(inline_constants(model)).lower()


def uint8_quantization(step: float, offset: float) -> tuple[float, int]:
    """Return the step and zero point with which uint8 holds x.

    int8 held x + offset with the given step. The new step is coarser if all such x have one sign,
    because uint8 must be able to hold zero.
    """
    zero_point = 128 + round(offset / step)
    if 0 <= zero_point <= 255:
        return step, zero_point
    return max(127 * step - offset, 128 * step + offset) / 255, 0 if offset < 0 else 255


class _Activation(NamedTuple):
    """A quantized activation: INT8 holds `tensor + offset` in units of `step`."""

    tensor: str
    offset: float
    step: float


class _Lowering:
    def __init__(self, model: "ModelProto") -> None:
        self._edit = GraphEdit(model)
        self._constants = {tensor.name for tensor in model.graph.initializer}
        self._producers = {name: node for node in self._edit.source for name in node.output}
        self._outputs = [value.name for value in model.graph.output]
        scalars = (tensor.name for tensor in model.graph.initializer if np.prod(tensor.dims) == 1)
        self._maps = ChannelsLast(self._edit, scalars)
        self._products = {
            product.output: product
            for product in find_products(model, batch=None)
            if self._becomes_matrix_product(product)
        }
        self._rows: dict[_Activation, tuple[str, float]] = {}  # the matrix that products read, and its step

    def lower(self) -> "ModelProto":
        activations = {name: self._activation(product) for name, product in self._products.items()}
        needed = self._needed_tensors(activations)
        for node in self._edit.source:
            product = self._products.get(node.output[0])
            if product is not None:
                activation = activations[product.output]
                if activation not in self._rows:
                    self._rows[activation] = self._write_rows(product, activation)
                self._write_product(product, activation, *self._rows[activation])
            elif needed & set(node.output):
                self._maps.keep(self._to_uint8(node) if node.op_type in _QDQ_OPS else node)
        self._maps.write_channels_first(self._outputs)
        return self._edit.finish()

    def _becomes_matrix_product(self, product: Product) -> bool:
        """Return whether it only multiplies and adds a constant, and its output has a known shape."""
        shape = product.output_shape
        return (
            product.is_int8
            and product.quantized_tensor is not None
            and product.is_matrix_product
            and not product.is_scaled
            and (product.bias is None or product.bias_shape is not None)
            and len(shape) == _OUTPUT_RANKS[product.op]
            and all(shape[1:])
        )

    def _activation(self, product: Product) -> _Activation:
        tensor, offset = product.quantized_tensor or "", 0.0
        centring = self._producers.get(tensor)
        if centring is not None and centring.op_type == "Add" and centring.input[1] in self._constants:
            added = self._edit.array(centring.input[1])
            if added.size == 1:
                tensor, offset = centring.input[0], added.item()
        return _Activation(tensor, offset, self._edit.array(product.activation_scale or "").item())

    def _needed_tensors(self, activations: dict[str, _Activation]) -> set[str]:
        """Return the tensors still read once products read their activations without the source's Q/DQ."""
        needed = set(self._outputs)
        for node in reversed(self._edit.source):
            activation = activations.get(node.output[0])
            if activation is not None:
                needed.add(activation.tensor)
            elif needed & set(node.output):
                needed |= tensors_read(node)
        return needed

    def _to_uint8(self, node: "NodeProto") -> "NodeProto":
        """Return an int8 Q/DQ node with its zero point, and its integers if they are constant, as uint8."""
        if len(node.input) < 3 or self._edit.array(node.input[2]).dtype != np.int8:
            return node
        moved = type(node)()
        moved.CopyFrom(node)
        for position, name in enumerate(node.input):
            if position != 1 and name in self._constants:
                values = self._edit.array(name).astype(np.int16) + 128
                moved.input[position] = self._edit.constant(f"{name}.uint8", values.astype(np.uint8))
        return moved

    def _write_rows(self, product: Product, activation: _Activation) -> tuple[str, float]:
        """Append the activation's Q/DQ pair.

        Returns:
            The activation as a matrix, (images and pixels, channels), and its step.
        """
        edit, name = self._edit, activation.tensor
        step, zero_point = uint8_quantization(activation.step, activation.offset)
        scale = edit.constant(f"{name}.step", np.array(step, np.float32))
        zero = edit.constant(f"{name}.zero", np.array(zero_point, np.uint8))
        channels_last = self._maps.find(name) if product.op == "Conv" else None
        x = edit.node("QuantizeLinear", [channels_last or name, scale, zero], f"{name}.unsigned")
        x = edit.node("DequantizeLinear", [x, scale, zero], f"{name}.rounded")
        if product.op != "Conv":
            return x, step
        if channels_last is None:
            x = edit.node("Transpose", [x], f"{name}.transposed", perm=TO_LAST)
        shape = edit.constant(f"{name}.rows_shape", np.array([-1, product.input_channels], np.int64))
        return edit.node("Reshape", [x, shape], f"{name}.rows"), step

    def _write_product(self, product: Product, activation: _Activation, rows: str, step: float) -> None:
        edit, name = self._edit, product.output
        int8 = self._weight_matrix(product)
        source_scales = edit.array(product.weight_scale or "")
        bias = self._bias(product, int8, source_scales, activation.offset)
        values, scales = fit_weight(int8, source_scales, bias=bias, activation_step=step)
        steps = (np.float32(step) * scales).astype(np.float32)
        int32_bias = np.rint(bias / steps.astype(np.float64)).astype(np.int32)
        reads = [rows, self._dequantized(f"{name}.weight", values, scales, axis=1)]
        reads.append(self._dequantized(f"{name}.bias", int32_bias, steps, axis=0))
        if product.op != "Conv":
            edit.node("Gemm", reads, name, replaces=True)
            return
        y = edit.node("Gemm", reads, f"{name}.product")
        _, channels, height, width = product.output_shape
        shape = edit.constant(f"{name}.map_shape", np.array([-1, height, width, channels], np.int64))
        self._maps.add(name, edit.node("Reshape", [y, shape], f"{name}.map"))

    def _weight_matrix(self, product: Product) -> npt.NDArray[np.int8]:
        """Return the weight as (inputs, outputs)."""
        values = self._edit.array(product.weight)
        matrix: npt.NDArray[np.int8] = values.reshape(values.shape[:2])
        return np.ascontiguousarray(matrix.T) if product.channel_axis == 0 else matrix

    def _bias(
        self,
        product: Product,
        values: npt.NDArray[np.int8],
        scales: npt.NDArray[np.float32],
        offset: float,
    ) -> npt.NDArray[np.float64]:
        """Return what is added to weight times activation without its offset, (outputs,)."""
        bias = 0.0 if product.bias is None else self._edit.array(product.bias).reshape(-1)
        total: npt.NDArray[np.float64] = bias + offset * scales.astype(np.float64) * values.sum(
            axis=0, dtype=np.float64
        )
        return total

    def _dequantized(
        self, name: str, values: npt.NDArray[np.integer], scales: npt.NDArray[np.float32], *, axis: int
    ) -> str:
        """Append a constant and the DequantizeLinear that makes it float."""
        reads = [
            self._edit.constant(f"{name}_values", values),
            self._edit.constant(f"{name}_scale", scales),
            self._edit.constant(f"{name}_zero", np.zeros(scales.size, values.dtype)),
        ]
        return self._edit.node("DequantizeLinear", reads, name, axis=axis)
