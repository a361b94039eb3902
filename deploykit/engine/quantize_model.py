"""Exported model -> ONNX file with explicit Q/DQ."""

from pathlib import Path

from deploykit.engine.prepare_graph import derive_info, finish_graph
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.quantize.fp32_model import find_fp32_model
from deploykit.quantize.int8_options import Int8Options
from deploykit.quantize.placement import DEFAULT_POLICY
from deploykit.quantize.plan import Int8Plan, plan_int8
from deploykit.util.atomic_files import file_sha256, require_writable, write_atomically
from deploykit.util.progress import Note, Progress, ignore_note, no_progress


def quantize_model(
    *,
    phi: float | None = None,
    onnx: str | Path | None = None,
    int8: Int8Options | None = None,
    output: str | Path | None = None,
    note: Note = ignore_note,
    progress: Progress = no_progress,
) -> tuple[Path, Int8Plan]:
    """Write a model as ONNX with explicit Q/DQ, which every TensorRT accepts and ONNX Runtime evaluates.

    Args:
        phi: Selects an exported model under engines/ by its coefficient.
        onnx: Path of the exported model; default the newest under engines/.
        int8: How to quantize.
        output: The ONNX file; default model.int8.onnx beside the model.

    Returns:
        The written file, and the plan that it follows.

    Raises:
        DeployError: The input is invalid. Nothing is written.
    """
    path, model, info = find_fp32_model(phi, onnx, note=note)
    written = Path(output) if output else path.with_name(f"{path.stem}.int8.onnx")
    require_writable(written, inputs=(path,))
    int8 = int8 or Int8Options()
    policy = int8.policy or DEFAULT_POLICY
    plan = plan_int8(path, model, info, int8, policy=policy, note=note, progress=progress)
    graph = finish_graph(
        plan.apply(model), derive_info(info, "int8", onnx_sha256=file_sha256(path), plan=plan)
    )
    write_atomically(written, to_bytes(graph))
    return written, plan
