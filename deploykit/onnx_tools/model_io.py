"""ONNX files: reading them safely, and the metadata by which each says what it is."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploykit.onnx_tools.nms import without_nms
from deploykit.onnx_tools.uint8_input import without_uint8_input
from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

INPUT_NAME, BATCH_NAME = "input", "batch"

_FP32_KEY = "deploykit.precision"  # of a node


def keep_in_fp32(node: "NodeProto") -> "NodeProto":
    """Marks a node that needs FP32 in whatever precision the model is built; the same node."""
    node.metadata_props.add(key=_FP32_KEY, value="fp32")
    return node


def is_kept_in_fp32(node: "NodeProto") -> bool:
    return any((each.key, each.value) == (_FP32_KEY, "fp32") for each in node.metadata_props)


def read_model(path: Path) -> "ModelProto":
    """Reads and checks an ONNX file; one that takes uint8 images is given as the float model behind that.

    One that answers with detections is given as the one before that, of boxes and scores.

    Raises:
        DeployError: there is none, it is not ONNX, is cut short, is not whole by itself, or holds NaN.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise DeployError(
            f"There is no model file {path}.",
            code="model-not-found",
            fix="deploykit export --phi 3, or give --onnx an existing file",
        )
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise DeployError(
            f"{path} is not an ONNX model, or was cut short.",
            code="model-damaged",
            fix="give a whole .onnx file: deploykit export --phi 3 writes one",
        ) from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise DeployError(
            f"{path} keeps its weights in other files.",
            code="model-external-data",
            fix="save it as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
        )
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise DeployError(
            f"{path} is not a valid ONNX model: {str(error).splitlines()[0]}",
            code="model-invalid",
            fix="export it again: deploykit export --phi 3",
        ) from error
    _require_finite(model, path)
    return without_nms(without_uint8_input(model))


def to_bytes(model: "ModelProto") -> bytes:
    """The model serialized; equal models give equal bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _require_finite(model: "ModelProto", path: Path) -> None:
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise DeployError(
                f"{path} holds NaN or Inf in {tensor.name}.",
                code="model-values-invalid",
                fix="export sound weights",
            )
