"""Exported model -> engine: find it, give it its precision, compile, audit, write."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.engine.compile import compile_graph, finish_graph, lower_graph, require_buildable
from deploykit.engine.compilers import BuildOptions, Compiler, require_installed
from deploykit.engine.lowering.cpu_int8 import respell_for_cpu
from deploykit.engine.lowering.dynamic_side import require_sides
from deploykit.engine.manifest import (
    EngineManifest,
    read_engine_manifest,
    require_engine_writable,
    write_engine,
)
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
from deploykit.networks.artifact_paths import find_model
from deploykit.networks.model_info import ModelInfo, read_model_info, require_fp32
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.quantize.accuracy_gate import OpenSession, open_like_tensorrt
from deploykit.quantize.placement import DEFAULT_POLICY, place
from deploykit.quantize.plan import Int8Options, Int8Plan, plan_int8
from deploykit.util.atomic_files import file_sha256, require_writable, write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

Report = Callable[[str], None]
"""Called with a sentence for the user, or the name of what is going on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """A written engine."""

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
    note: Report = lambda sentence: None,
    progress: Report = lambda phase: None,
) -> BuiltEngine:
    """Compiles an exported model.

    Args:
        phi, onnx: which model, see artifact_paths.find_model.
        precision: default FP16, and FP32 on the CPU, where FP16 has no kernels.
        batches: sizes it shall take, an optimization profile each.
        side: sides it shall take; default the model's own alone.
        gpu, compiler: see engine.targets.target_for.
        options: what else to ask of the compiler.
        int8: how, where precision is INT8; see quantize.plan.Int8Options.
        output: the engine file; default beside the model, named for precision and target.

    Raises:
        DeployError: bad input, or an engine that is not what was asked for; nothing is written.
    """
    target = resolve_target(gpu, compiler)
    options.require_for(target.compiler)
    target = replace(target, hardware_compatible=options.hardware_compatible)
    precision = resolve_precision(target, precision)
    if precision != "int8" and int8 not in (None, Int8Options()):
        raise DeployError(
            "--data, --ranges, --eval and the other INT8 options are for INT8 alone.",
            code="option-not-applicable",
            fix="add --int8, or leave them out",
        )
    path, model, info = _fp32_model(phi, onnx, note)
    if side is not None and side.min == side.max == info.preprocessing.side_px:
        side = None
    engine = Path(output) if output else _engine_path(path, precision, target)
    ranges = (Path(int8.ranges),) if int8 and int8.ranges else ()
    require_engine_writable(engine, inputs=(path, *ranges))
    require_installed(target.compiler)
    for sentence in (
        _replaced(engine, batches, side),
        target.note,
        int8_caveat(target) if precision == "int8" else None,
    ):
        if sentence is not None:
            note(sentence)
    require_buildable(target, info, precision, side)  # before long work
    if side is not None:
        require_sides(model, side)
    plan = None
    if precision == "int8":
        int8 = int8 or Int8Options()
        policy = resolve_int8_policy(target, int8.policy)
        require_int8_kernels(target, place(model, policy, include=int8.include, exclude=int8.exclude))
        plan = plan_int8(
            path,
            model,
            info,
            int8,
            policy=policy,
            open_session=_as_built(target),
            note=note,
            progress=_counting(progress),
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


def quantize_model(
    *,
    phi: float | None = None,
    onnx: str | Path | None = None,
    int8: Int8Options | None = None,
    output: str | Path | None = None,
    note: Report = lambda sentence: None,
    progress: Report = lambda phase: None,
) -> tuple[Path, Int8Plan]:
    """Writes the model as ONNX with explicit Q/DQ: what TensorRT takes anywhere, and `eval` on a CPU.

    Args:
        phi, onnx: which model, see artifact_paths.find_model.
        output: default model.int8.onnx beside the model.

    Raises:
        DeployError: bad input; nothing is written.
    """
    path, model, info = _fp32_model(phi, onnx, note)
    written = Path(output) if output else path.with_name(f"{path.stem}.int8.onnx")
    require_writable(written, inputs=(path,))
    int8 = int8 or Int8Options()
    policy = int8.policy or DEFAULT_POLICY
    plan = plan_int8(path, model, info, int8, policy=policy, note=note, progress=_counting(progress))
    graph = finish_graph(plan.apply(model), _derived(info, "int8", file_sha256(path), plan))
    write_atomically(written, to_bytes(graph))
    return written, plan


def apply_precision(
    model: "ModelProto",
    info: ModelInfo,
    precision: Precision,
    target: Target,
    *,
    onnx_sha256: str,
    plan: Int8Plan | None = None,
) -> "ModelProto":
    """The FP32 model as the compiler gets it."""
    derived = _derived(info, precision, onnx_sha256, plan)
    return lower_graph(target, model if plan is None else plan.apply(model), derived)


def _derived(info: ModelInfo, precision: Precision, onnx_sha256: str, plan: Int8Plan | None) -> ModelInfo:
    if plan is None:
        return info.derive(precision=precision, onnx_sha256=onnx_sha256)
    return replace(
        info.derive(precision=precision, onnx_sha256=onnx_sha256, ranges_sha256=plan.ranges.sha256),
        preprocessing=plan.ranges.preprocessing,
    )


def _fp32_model(
    phi: float | None, onnx: str | Path | None, note: Report
) -> "tuple[Path, ModelProto, ModelInfo]":
    path, chosen = find_model(phi=phi, onnx=onnx)
    model = read_model(path)
    info = read_model_info(model)
    require_fp32(path, info)
    if chosen is not None:
        note(chosen)
    return path, model, info


def _as_built(target: Target) -> OpenSession:
    """How the accuracy gate runs a quantized model: the CPU's artifact as it will run."""
    if target.on_cpu:
        return lambda model: cpu_session(to_bytes(respell_for_cpu(model)))
    return open_like_tensorrt


def _counting(progress: Report) -> Callable[[str, int, int], None]:
    return lambda what, done, total: progress(f"{what}, {done} of {total}")


def _replaced(engine: Path, batches: Sequence[BatchRange], side: SideRange | None) -> str | None:
    """What is said where an engine for other sizes has the name."""
    with suppress(DeployError):
        there = read_engine_manifest(engine)
        if (there.batches, there.side) != (tuple(batches), side):
            return f"Replacing {engine}, which takes {there.takes}; -o names another file."
    return None


def _engine_path(model: Path, precision: Precision, target: Target) -> Path:
    suffix = "onnx" if target.compiler == "onnxruntime" else "engine"
    return model.with_name(f"{model.stem}.{precision}.{target.label}.{suffix}")
