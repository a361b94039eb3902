"""FP32 model -> the ONNX graph that a compiler gets."""

from dataclasses import replace
from typing import TYPE_CHECKING

from deploykit.engine.audit.graph_nodes import name_nodes
from deploykit.engine.lowering.cpu_int8 import lower_for_cpu
from deploykit.engine.lowering.rtx_int8 import lower_for_rtx
from deploykit.engine.targets import Target
from deploykit.networks.model_info import ModelInfo, set_model_info
from deploykit.onnx_tools.fp16 import to_fp16
from deploykit.onnx_tools.nms import with_nms
from deploykit.onnx_tools.uint8_input import with_uint8_input
from deploykit.quantize.plan import Int8Plan
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto


def apply_precision(
    model: "ModelProto",
    info: ModelInfo,
    precision: Precision,
    target: Target,
    *,
    onnx_sha256: str,
    plan: Int8Plan | None = None,
) -> "ModelProto":
    """Return the graph for the target's compiler, in the requested precision.

    Args:
        model, info: The exported FP32 model.
        onnx_sha256: Digest of the file that the model was read from.
        plan: Ranges and placement, for INT8.
    """
    derived = derive_info(info, precision, onnx_sha256=onnx_sha256, plan=plan)
    return lower_graph(target, model if plan is None else plan.apply(model), derived)


def derive_info(
    info: ModelInfo, precision: Precision, *, onnx_sha256: str, plan: Int8Plan | None
) -> ModelInfo:
    """Return the metadata of a model that is made from the FP32 model with this precision."""
    if plan is None:
        return info.derive(precision=precision, onnx_sha256=onnx_sha256)
    return replace(
        info.derive(precision=precision, onnx_sha256=onnx_sha256, ranges_sha256=plan.ranges.sha256),
        preprocessing=plan.ranges.preprocessing,
    )


def lower_graph(target: Target, model: "ModelProto", info: ModelInfo) -> "ModelProto":
    """Return the model as the target's compiler handles it best.

    Q/DQ is lowered to what the compiler has integer kernels for. On a GPU the rest becomes FP16.

    Args:
        model: In floating point, with Q/DQ pairs where INT8 is planned. It is not modified.
        info: Metadata of the resulting model.
    """
    graph = type(model)()
    graph.CopyFrom(model)
    match target.compiler, info.precision:
        case "onnxruntime", "int8":
            graph = lower_for_cpu(graph)
        case "tensorrt-rtx", "int8":
            graph = to_fp16(lower_for_rtx(graph, sm=target.sm))
        case _, ("fp16" | "int8"):
            graph = to_fp16(graph)
    graph = finish_graph(graph, info)
    name_nodes(graph)
    return graph


def finish_graph(graph: "ModelProto", info: ModelInfo) -> "ModelProto":
    """Add uint8 preprocessing and NMS if the model has them, and write its metadata."""
    if info.input_type == "uint8":
        graph = with_uint8_input(graph, info.preprocessing)
    if info.nms is not None:
        graph = with_nms(graph, info.nms)
    set_model_info(graph, info)
    return graph
