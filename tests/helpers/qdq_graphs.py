"""Q/DQ graphs of one product, and their outputs in exact integer arithmetic."""

import handmade_graphs
import numpy as np
import onnx
from handmade_graphs import constants_of
from onnx import helper

from deploykit.onnx_tools.model_io import to_bytes
from deploykit.onnx_tools.ort_session import cpu_session

SIDE_PX = 6
# Steps are powers of two, so that float sums are exact and round the same in any order.
STEP = np.float32(2.0**-4)  # of activations


def graph_of(nodes, constants, *, y: list[int], x: list[int]) -> onnx.ModelProto:
    return handmade_graphs.graph_of(nodes, constants, takes={"x": tuple(x)}, gives={"y": tuple(y)})


def activation_pair(name: str) -> list:
    return [
        helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", "step", "zero"], [f"{name}_dq"]),
    ]


def weight_pair(name: str, *, axis: int = 0) -> list:
    reads = [f"{name}_values", f"{name}_scales", f"{name}_zeros"]
    return [helper.make_node("DequantizeLinear", reads, [name], axis=axis)]


def weight_constants(name: str, values: np.ndarray, *, axis: int = 0) -> dict[str, np.ndarray]:
    channels = values.shape[axis]
    return {
        f"{name}_values": values.astype(np.int8),
        f"{name}_scales": 2.0 ** -(6 + np.arange(channels, dtype=np.float32) % 4),
        f"{name}_zeros": np.zeros(channels, np.int8),
    }


SHARED = {"step": STEP, "zero": np.int8(0)}


def convolution(values: np.ndarray, *, bias: np.ndarray | None = None, **attributes) -> onnx.ModelProto:
    """Build a symmetric Q/DQ convolution of x with int8 values, (outputs, inputs, height, width)."""
    constants = SHARED | weight_constants("w", values) | ({} if bias is None else {"b": bias})
    reads = ["x_dq", "w", *([] if bias is None else ["b"])]
    nodes = [*activation_pair("x"), *weight_pair("w"), helper.make_node("Conv", reads, ["y"], **attributes)]
    side = SIDE_PX + 2 * attributes.get("pads", [0])[0] - (values.shape[2] - 1)
    side = -(-side // attributes.get("strides", [1])[0])
    inputs = values.shape[1] * attributes.get("group", 1)
    return graph_of(nodes, constants, x=[inputs, SIDE_PX, SIDE_PX], y=[len(values), side, side])


def linear(values: np.ndarray, *, op: str = "Gemm", transposed: int = 1) -> onnx.ModelProto:
    """Build a symmetric Q/DQ linear layer of x with int8 values, (outputs, inputs)."""
    stored, axis = (values, 0) if transposed else (values.T, 1)
    constants = SHARED | weight_constants("w", stored, axis=axis)
    attributes = {"transB": transposed} if op == "Gemm" else {}
    nodes = [
        *activation_pair("x"),
        *weight_pair("w", axis=axis),
        helper.make_node(op, ["x_dq", "w"], ["y"], **attributes),
    ]
    return graph_of(nodes, constants, x=[values.shape[1]], y=[len(values)])


def extremes(outputs: int, inputs: int) -> np.ndarray:
    """Return the weights that saturate most: one sign, alternating signs, random signs, random values."""
    generator = np.random.default_rng(0)
    values = generator.choice([-127, 127], (outputs, inputs))
    values[0], values[1], values[2] = 127, -127, np.resize([127, -127], inputs)
    values[3:] = np.where(generator.random(values[3:].shape) < 0.5, values[3:], generator.integers(-127, 128))
    return values


def quiet(*shape: int) -> np.ndarray:
    """Return weights of which no two add up to more than 128, so that they need no change."""
    return np.random.default_rng(1).integers(-64, 65, shape)


def images(model, *, count: int = 3) -> np.ndarray:
    """Return activations, half of them at an end of their range and some beyond."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    generator = np.random.default_rng(2)
    x = generator.uniform(-130, 130, (count, *shape)) * STEP
    x = np.where(generator.random(x.shape) < 0.5, np.sign(x) * 127 * STEP, x)
    x[0] = 127 * STEP
    return x.astype(np.float32)


def outputs(model, x: np.ndarray, *, fuse_int8: bool) -> np.ndarray:
    session = cpu_session(to_bytes(model), fuse_int8=fuse_int8, threads=1)
    return session.run(None, {model.graph.input[0].name: x})[0]


def exactly(model, x: np.ndarray) -> np.ndarray:
    """Return the outputs of a lowered graph of one product, in exact integer arithmetic."""
    constants = constants_of(model)
    makers = {node.output[0]: node for node in model.graph.node}
    (quantize,) = (node for node in model.graph.node if node.op_type == "QuantizeLinear")
    (product,) = (node for node in model.graph.node if node.op_type == "Gemm")
    step, zero = (constants[name] for name in quantize.input[1:])
    assert zero.dtype == np.uint8
    rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    integers = np.clip(np.rint(rows / step) + int(zero), 0, 255).astype(np.int64) - int(zero)
    weight, bias = (constants[makers[name].input[0]].astype(np.int64) for name in product.input[1:])
    scales = constants[makers[product.input[1]].input[1]].astype(np.float64)
    y = (integers @ weight + bias) * (np.float64(step) * scales)
    return np.moveaxis(y.reshape(x.shape[0], *x.shape[2:], -1), -1, 1)
