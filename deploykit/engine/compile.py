"""A model whose graph spells out its precision -> an engine and its manifest."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.engine import onnxruntime_compiler as onnxruntime
from deploykit.engine import tensorrt_compiler as tensorrt
from deploykit.engine.audit.work import name_nodes
from deploykit.engine.compilers import COMPILERS, BuildOptions
from deploykit.engine.lowering.cpu_int8 import respell_for_cpu
from deploykit.engine.lowering.rtx_int8 import respell
from deploykit.engine.manifest import EngineManifest, TensorSpec
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import Target
from deploykit.networks.model_info import ModelInfo, set_model_info
from deploykit.onnx_tools.fp16 import to_fp16
from deploykit.onnx_tools.nms import with_nms
from deploykit.onnx_tools.ort_session import cpu_session, cuda_session
from deploykit.onnx_tools.uint8_input import with_pixels
from deploykit.quantize.summary import Int8Summary
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto


def lower_graph(target: Target, model: "ModelProto", info: ModelInfo) -> "ModelProto":
    """What the compiler gets: Q/DQ as it takes it well, FP16 elsewhere on a GPU, uint8 images if so wanted.

    Args:
        model: in floating point, with Q/DQ pairs where INT8 is; it is left as it was.
        info: of the model to be made.
    """
    graph = type(model)()
    graph.CopyFrom(model)
    match target.compiler, info.precision:
        case "onnxruntime", "int8":
            graph = respell_for_cpu(graph)
        case "tensorrt-rtx", "int8":
            graph = to_fp16(respell(graph, sm=target.sm))
        case _, ("fp16" | "int8"):
            graph = to_fp16(graph)
    graph = finish_graph(graph, info)
    name_nodes(graph)
    return graph


def finish_graph(graph: "ModelProto", info: ModelInfo) -> "ModelProto":
    """As it is written: with normalization and suppression, where it has them, and what it says of itself."""
    if info.input_type == "uint8":
        graph = with_pixels(graph, info.preprocessing)
    if info.nms is not None:
        graph = with_nms(graph, info.nms)
    set_model_info(graph, info)
    return graph


def compile_graph(
    graph: "ModelProto",
    info: ModelInfo,
    *,
    target: Target,
    planned_int8: int,
    int8: Int8Summary | None = None,
    batches: Sequence[BatchRange] = (BatchRange(),),
    side: SideRange | None = None,
    options: BuildOptions = BuildOptions(),  # noqa: B008  # frozen
    progress: Callable[[str], None] = lambda phase: None,
) -> tuple[bytes, EngineManifest]:
    """The plan or artifact, and what is known of it.

    Args:
        graph: of graph_for.
        planned_int8: how many products it has in INT8.

    Raises:
        DeployError: the compiler is missing or refuses, or made something other than was asked for.
    """
    require_buildable(target, info, info.precision, side)
    if target.compiler == "onnxruntime":
        open_session = cpu_session if target.on_cpu else cuda_session
        compiled = onnxruntime.prepare_artifact(graph, side=side, open_session=open_session)
    else:
        compiled = tensorrt.compile_plan(
            graph, target=target, batches=batches, side=side, options=options, progress=progress
        )
    compiled.audit.require(info.precision, planned_int8=planned_int8, on_cpu=target.on_cpu)
    manifest = EngineManifest(
        engine_sha256=hashlib.sha256(compiled.data).hexdigest(),
        precision=info.precision,
        compiler_version=compiled.compiler_version,
        target=target,
        batches=tuple(batches),
        side=side,
        input=_tensor(graph.graph.input[0], side),
        output=_tensor(graph.graph.output[0]),
        more_outputs=tuple(map(_tensor, graph.graph.output[1:])),
        model=info,
        audit=compiled.audit,
        build_seconds=compiled.build_seconds,
        options=options,
        timing_cache_sha256=compiled.timing_cache_sha256,
        int8=int8,
        deploykit_version=__version__,
    )
    return compiled.data, manifest


def require_buildable(target: Target, info: ModelInfo, precision: Precision, side: SideRange | None) -> None:
    """Fails where no engine takes these sides, or is asked for detections that it can't make.

    Args:
        info: of the model it is made from.

    Raises:
        DeployError: none of the precision does, or the model's own side is not among them; or none suppresses
            boxes.
    """
    if info.nms is not None and not COMPILERS[target.compiler].suppresses:
        raise DeployError(
            f"{target.compiler_title} has no kernel for non-maximum suppression.",
            code="nms-unsupported",
            fix="export without --nms and suppress what the engine answers, or build with --gpu cpu or "
            "--compiler tensorrt",
        )
    if side is not None:
        require_model_side(info, side)
    if side is not None and target.on_cpu and precision == "int8":
        raise DeployError(
            "ONNX Runtime's integers are spelled for images of one side.",
            code="dynamic-side-unsupported",
            fix="leave out --side, or --int8",
        )


def require_model_side(info: ModelInfo, side: SideRange) -> None:
    """Fails where images prepared as the model records are none that the engine would take.

    Raises:
        DeployError: they are not.
    """
    own_px = info.preprocessing.side_px
    if own_px not in side:
        raise DeployError(
            f"Sides of {side} leave out the model's own, {own_px} px.",
            code="dynamic-side-unsupported",
            fix=f"give a range with {own_px} in it, or export the model with another --side",
        )


def _tensor(value: "object", side: SideRange | None = None) -> TensorSpec:
    from onnx import TensorProto

    kind = value.type.tensor_type  # type: ignore[attr-defined]  # onnx.ValueInfoProto has no types
    shape = tuple(dim.dim_value for dim in kind.shape.dim)[1:]
    is_pixels = kind.elem_type == TensorProto.UINT8
    if side is not None:
        shape = (side.opt, side.opt, shape[-1]) if is_pixels else (shape[0], side.opt, side.opt)
    return TensorSpec(
        name=value.name,  # type: ignore[attr-defined]
        dtype="uint8" if is_pixels else "float32",
        shape=shape,
    )
