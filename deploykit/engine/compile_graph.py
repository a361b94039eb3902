"""A graph whose precision is explicit -> an engine and its manifest."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.engine import onnxruntime_compiler as onnxruntime
from deploykit.engine import tensorrt_compiler as tensorrt
from deploykit.engine.compilers import BuildOptions
from deploykit.engine.manifest import EngineManifest, TensorSpec
from deploykit.engine.require_buildable import require_buildable
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import Target
from deploykit.networks.model_info import ModelInfo
from deploykit.onnx_tools.ort_session import cpu_session, cuda_session
from deploykit.quantize.summary import Int8Summary
from deploykit.util.progress import Progress, no_progress

if TYPE_CHECKING:
    from onnx import ModelProto


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
    progress: Progress = no_progress,
) -> tuple[bytes, EngineManifest]:
    """Compile a graph and audit the result.

    Args:
        graph: From prepare_graph.lower_graph.
        info: The graph's metadata.
        planned_int8: How many convolutions and matrix products the graph has in INT8.
        int8: Goes into the manifest.
        batches: One optimization profile each.
        side: Image sides that the engine accepts; None for only the model's own.

    Returns:
        The engine's bytes, and its manifest.

    Raises:
        DeployError: The compiler is missing, refuses the graph, or produced another precision.
    """
    require_buildable(target, info, info.precision, side)
    if target.compiler == "onnxruntime":
        open_session = cpu_session if target.on_cpu else cuda_session
        compiled = onnxruntime.prepare_artifact(graph, side=side, open_session=open_session)
    else:
        compiled = tensorrt.compile_plan(
            graph, target=target, batches=batches, side=side, options=options, progress=progress
        )
    compiled.audit.require_precision(info.precision, planned_int8=planned_int8, on_cpu=target.on_cpu)
    manifest = EngineManifest(
        engine_sha256=hashlib.sha256(compiled.data).hexdigest(),
        precision=info.precision,
        compiler_version=compiled.compiler_version,
        target=target,
        batches=tuple(batches),
        side=side,
        input=_tensor_spec(graph.graph.input[0], side),
        output=_tensor_spec(graph.graph.output[0]),
        more_outputs=tuple(map(_tensor_spec, graph.graph.output[1:])),
        model=info,
        audit=compiled.audit,
        build_seconds=compiled.build_seconds,
        options=options,
        timing_cache_sha256=compiled.timing_cache_sha256,
        int8=int8,
        deploykit_version=__version__,
    )
    return compiled.data, manifest


def _tensor_spec(value: "object", side: SideRange | None = None) -> TensorSpec:
    from onnx import TensorProto

    kind = value.type.tensor_type  # type: ignore[attr-defined]  # onnx.ValueInfoProto has no types
    shape = tuple(dim.dim_value for dim in kind.shape.dim)[1:]
    is_uint8 = kind.elem_type == TensorProto.UINT8
    if side is not None:
        shape = (side.opt, side.opt, shape[-1]) if is_uint8 else (shape[0], side.opt, side.opt)
    return TensorSpec(
        name=value.name,  # type: ignore[attr-defined]
        dtype="uint8" if is_uint8 else "float32",
        shape=shape,
    )
