"""Build graphs like those of other tools, with unnamed nodes, and ranges without measuring."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploykit.data.preprocessing import Preprocessing
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics

OPSET, IR_VERSION = 20, 10

Bound = float | tuple[float, float]


def weight(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def graph_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    takes: dict[str, tuple[int, ...]],
    gives: dict[str, tuple[int, ...] | None],
) -> onnx.ModelProto:
    """Build a model whose inputs and outputs have these shapes after the batch; None for any shape."""

    def described(name: str, shape: tuple[int, ...] | None) -> onnx.ValueInfoProto:
        dims = None if shape is None else ["n", *shape]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    graph = helper.make_graph(
        nodes,
        "foreign",
        [described(*each) for each in takes.items()],
        [described(*each) for each in gives.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def ranges_of(bounds: dict[str, Bound]) -> Ranges:
    """Build ranges from low to high for each tensor; a single number means a range symmetric about zero."""
    pairs = {name: each if isinstance(each, tuple) else (-each, each) for name, each in bounds.items()}
    return Ranges(
        onnx_sha256="0" * 64,
        preprocessing=Preprocessing(side_px=64),
        sources=("by hand",),
        images=1,
        method=CalibrationMethod(name="max"),
        statistics={name: TensorStatistics(low=low, high=high) for name, (low, high) in pairs.items()},
    )


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def run_unfused(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *names: str) -> list[np.ndarray]:
    """Return these tensors, by default the outputs, computed with TensorRT's arithmetic."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    already = {value.name for value in model.graph.output}
    shown.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in names if name not in already
    )
    session = cpu_session(to_bytes(shown), fuse_int8=False)
    return session.run(list(names) or None, feeds)
