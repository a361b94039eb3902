"""Exported model -> engine: find it, give it its precision, compile, audit, write."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.engine import onnxruntime, tensorrt
from deploykit.engine.manifest import BatchRange, Manifest, Tensor, write_engine
from deploykit.engine.rtx_int8 import respell
from deploykit.engine.targets import Target, int8_note, precision_for, target_for
from deploykit.errors import DeployError
from deploykit.files import require_writable, sha256_of
from deploykit.model_file import ModelInfo, Precision, info_of, read_model, stamp, to_bytes
from deploykit.precision import to_fp16
from deploykit.quantize.find_ranges import ranges_for
from deploykit.quantize.placement import pointwise
from deploykit.quantize.qdq import insert_qdq
from deploykit.quantize.ranges import Ranges
from deploykit.workspace import find_model

if TYPE_CHECKING:
    from onnx import ModelProto

Report = Callable[[str], None]
"""Called with a sentence for the user, or the name of what is going on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A written engine."""

    path: Path
    manifest: Manifest


def build_engine(
    *,
    phi: float | None = None,
    onnx: Path | None = None,
    precision: Precision | None = None,
    gpu: str | None = None,
    batch: BatchRange = BatchRange(),  # noqa: B008  # frozen
    data: str | Path | None = None,
    ranges: Path | None = None,
    output: Path | None = None,
    note: Report = lambda sentence: None,
    progress: Report = lambda phase: None,
) -> Built:
    """Compiles an exported model.

    Args:
        phi, onnx: which model, see workspace.find_model.
        precision: default FP16, and FP32 on the CPU, where FP16 has no kernels.
        gpu: see engine.targets.target_for.
        data: images to calibrate INT8 on; else `ranges`, else the model's own in calibration/.
        output: the engine file; default beside the model, named for precision and target.

    Raises:
        DeployError: bad input, or an engine that is not what was asked for; nothing is written.
    """
    target = target_for(gpu)
    precision = precision_for(target, precision)
    if precision != "int8" and (data is not None or ranges is not None):
        raise DeployError("--data and --ranges are for INT8 alone.", fix="add --int8, or leave them out")
    path, chosen = find_model(phi=phi, onnx=onnx)
    model = read_model(path)
    info = info_of(model)
    if info.precision != "fp32":
        raise DeployError(
            f"{path} is already {info.precision.upper()}.", fix="give the FP32 model it came from"
        )
    engine = output or _engine_path(path, precision, target)
    require_writable(engine, inputs=(path,))
    for sentence in (chosen, target.note, int8_note(target) if precision == "int8" else None):
        if sentence is not None:
            note(sentence)
    used = None
    if precision == "int8":
        used = ranges_for(path, info, ranges=ranges, data=data, note=note, progress=_counting(progress))
    graph = with_precision(model, info, precision, target, onnx_sha256=sha256_of(path), ranges=used)
    progress("compiling")
    plan = _compile(graph, target, batch, progress)
    plan.audit.require(precision, planned_int8=len(pointwise(model)))
    manifest = _manifest(plan, graph, precision, target, batch)
    write_engine(engine, plan.data, manifest)
    return Built(path=engine, manifest=manifest)


def with_precision(
    model: "ModelProto",
    info: ModelInfo,
    precision: Precision,
    target: Target,
    *,
    onnx_sha256: str,
    ranges: Ranges | None = None,
) -> "ModelProto":
    """The FP32 model as the compiler gets it: Q/DQ where INT8 is, FP16 elsewhere on a GPU."""
    graph = type(model)()
    graph.CopyFrom(model)
    if ranges is not None:
        graph = insert_qdq(graph, pointwise(graph), ranges)
    if precision != "fp32" and target.compiler == "tensorrt-rtx":
        graph = to_fp16(respell(graph, sm=target.sm) if ranges is not None else graph)
    stamp(
        graph,
        info.derive(
            precision=precision,
            onnx_sha256=onnx_sha256,
            ranges_sha256=ranges.sha256 if ranges is not None else None,
        ),
    )
    return graph


def _counting(progress: Report) -> Callable[[int, int], None]:
    return lambda done, total: progress(f"calibrating, {done} of {total} images")


def _engine_path(model: Path, precision: Precision, target: Target) -> Path:
    suffix = "onnx" if target.compiler == "onnxruntime" else "engine"
    return model.with_name(f"{model.stem}.{precision}.{target.label}.{suffix}")


def _compile(graph: "ModelProto", target: Target, batch: BatchRange, progress: Report) -> tensorrt.Plan:
    if target.compiler == "onnxruntime":
        return onnxruntime.prepare_artifact(graph)
    return tensorrt.compile_plan(to_bytes(graph), target=target, batch=batch, progress=progress)


def _manifest(
    plan: tensorrt.Plan, graph: "ModelProto", precision: Precision, target: Target, batch: BatchRange
) -> Manifest:
    import hashlib

    return Manifest(
        engine_sha256=hashlib.sha256(plan.data).hexdigest(),
        precision=precision,
        compiler_version=plan.compiler_version,
        target=target,
        batch=batch,
        input=_tensor(graph.graph.input[0]),
        output=_tensor(graph.graph.output[0]),
        model=info_of(graph),
        audit=plan.audit,
        build_seconds=plan.build_seconds,
        deploykit_version=__version__,
    )


def _tensor(value: "object") -> Tensor:
    return Tensor(
        name=value.name,  # type: ignore[attr-defined]  # onnx.ValueInfoProto, which ships without types
        dtype="float32",
        shape=tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]),  # type: ignore[attr-defined]
    )
