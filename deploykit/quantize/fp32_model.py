"""The exported FP32 model that a command works on."""

from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.networks.artifact_paths import find_model
from deploykit.networks.model_info import ModelInfo, read_model_info, require_fp32
from deploykit.onnx_tools.model_io import read_model
from deploykit.util.progress import Note

if TYPE_CHECKING:
    from onnx import ModelProto


def find_fp32_model(
    phi: float | None, onnx: str | Path | None, *, note: Note
) -> "tuple[Path, ModelProto, ModelInfo]":
    """Find an exported model, read it, and check that it is FP32.

    Args:
        phi, onnx: See networks.artifact_paths.find_model.
        note: Receives which model was chosen if there are several.

    Raises:
        DeployError: There is no such model, or it is not FP32.
    """
    path, choice = find_model(phi=phi, onnx=onnx)
    model = read_model(path)
    info = read_model_info(model)
    require_fp32(path, info)
    if choice is not None:
        note(choice)
    return path, model, info
