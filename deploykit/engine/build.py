"""Exported model -> engine: find the model, lower it, compile it, audit it, write it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.engine.compile_graph import compile_graph
from deploykit.engine.compilers import BuildOptions, Compiler, require_installed
from deploykit.engine.lowering.cpu_int8 import lower_for_cpu
from deploykit.engine.lowering.dynamic_side import require_sides
from deploykit.engine.manifest import (
    EngineManifest,
    read_engine_manifest,
    require_engine_writable,
    write_engine,
)
from deploykit.engine.prepare_graph import apply_precision
from deploykit.engine.require_buildable import require_buildable
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import (
    Target,
    int8_caveat,
    require_int8_kernels,
    resolve_int8_policy,
    resolve_precision,
    resolve_target,
)
from deploykit.gpu_catalog.gpus import Gpu
from deploykit.networks.model_info import ModelInfo, read_model_info
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.quantize.accuracy_gate import OpenSession, open_like_tensorrt
from deploykit.quantize.fp32_model import find_fp32_model
from deploykit.quantize.int8_options import Int8Options
from deploykit.quantize.placement import place_int8
from deploykit.quantize.plan import Int8Plan, plan_int8
from deploykit.util.atomic_files import file_sha256
from deploykit.util.errors import DeployError
from deploykit.util.progress import Note, Progress, ignore_note, no_progress
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """An engine file and its manifest."""

    path: Path
    manifest: EngineManifest


def build_engine(
    *,
    phi: float | None = None,
    onnx: str | Path | None = None,
    precision: Precision | None = None,
    gpu: str | Gpu | None = None,
    batches: Sequence[BatchRange] = (BatchRange(),),
    side: SideRange | None = None,
    compiler: Compiler | None = None,
    options: BuildOptions = BuildOptions(),  # noqa: B008  # frozen
    int8: Int8Options | None = None,
    output: str | Path | None = None,
    note: Note = ignore_note,
    progress: Progress = no_progress,
) -> BuiltEngine:
    """Compile an exported model to an engine, and write the manifest beside it.

    Args:
        phi: Selects an exported model under engines/ by its coefficient.
        onnx: Path of the exported model; default the newest under engines/.
        precision: Default FP16, or FP32 on the CPU, which has no FP16 kernels.
        gpu: A GPU, its name, `local`, `portable` or `cpu`; default the local GPU, or else `portable`.
        compiler: `tensorrt`, `tensorrt-rtx` or `onnxruntime`; default the best one for the target.
        batches: Batch sizes that the engine accepts, one optimization profile each.
        side: Image sides that the engine accepts, pixels; default only the model's own.
        options: Further compiler options.
        int8: How to quantize if precision is INT8.
        output: The engine file; default beside the model, named after precision and target.

    Raises:
        DeployError: The input is invalid, or the compiled engine does not have the requested precision.
            Nothing is written.
    """
    target = resolve_target(gpu, compiler)
    options.require_supported_by(target.compiler)
    target = replace(target, hardware_compatible=options.hardware_compatible)
    precision = resolve_precision(target, precision)
    if precision != "int8" and int8 not in (None, Int8Options()):
        raise DeployError(
            "INT8 options such as --data, --ranges and --eval need --int8.",
            code="option-not-applicable",
            fix="add --int8, or remove them",
        )
    path, model, info = find_fp32_model(phi, onnx, note=note)
    if side is not None and side.min == side.max == info.preprocessing.side_px:
        side = None
    engine = Path(output) if output else _default_path(path, precision, target)
    ranges = (Path(int8.ranges),) if int8 and int8.ranges else ()
    require_engine_writable(engine, inputs=(path, *ranges))
    require_installed(target.compiler)
    for sentence in (
        _replacement_note(engine, batches, side),
        target.note,
        int8_caveat(target) if precision == "int8" else None,
    ):
        if sentence is not None:
            note(sentence)
    require_buildable(target, info, precision, side)  # before the slow part
    if side is not None:
        require_sides(model, side)
    plan = None
    if precision == "int8":
        plan = _plan_for_target(
            path, model, info, int8 or Int8Options(), target=target, note=note, progress=progress
        )
    graph = apply_precision(model, info, precision, target, onnx_sha256=file_sha256(path), plan=plan)
    progress("compiling")
    data, manifest = compile_graph(
        graph,
        read_model_info(graph),
        target=target,
        planned_int8=len(plan.placement.products) if plan else 0,
        int8=plan.summary if plan else None,
        batches=batches,
        side=side,
        options=options,
        progress=progress,
    )
    write_engine(engine, data, manifest)
    return BuiltEngine(path=engine, manifest=manifest)


def _plan_for_target(
    path: Path,
    model: "ModelProto",
    info: ModelInfo,
    int8: Int8Options,
    *,
    target: Target,
    note: Note,
    progress: Progress,
) -> Int8Plan:
    policy = resolve_int8_policy(target, int8.policy)
    require_int8_kernels(target, place_int8(model, policy, include=int8.include, exclude=int8.exclude))
    return plan_int8(
        path,
        model,
        info,
        int8,
        policy=policy,
        open_session=_session_opener(target),
        note=note,
        progress=progress,
    )


def _session_opener(target: Target) -> OpenSession:
    """Return how the accuracy gate runs a quantized model: on the CPU exactly as it will be deployed."""
    if target.on_cpu:
        return lambda model: cpu_session(to_bytes(lower_for_cpu(model)))
    return open_like_tensorrt


def _replacement_note(engine: Path, batches: Sequence[BatchRange], side: SideRange | None) -> str | None:
    """Return a note if the file to be replaced is an engine for other sizes."""
    with suppress(DeployError):
        existing = read_engine_manifest(engine)
        if (existing.batches, existing.side) != (tuple(batches), side):
            return (
                f"Replacing {engine}, which accepts {existing.input_summary}; "
                "use -o to write to another file."
            )
    return None


def _default_path(model: Path, precision: Precision, target: Target) -> Path:
    suffix = "onnx" if target.compiler == "onnxruntime" else "engine"
    return model.with_name(f"{model.stem}.{precision}.{target.label}.{suffix}")
