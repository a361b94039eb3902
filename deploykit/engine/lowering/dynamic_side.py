"""A model of one side, for images of any side: what a fully convolutional network with pooling allows."""

from typing import TYPE_CHECKING

import numpy as np

from deploykit.engine.shapes import SideRange
from deploykit.onnx_tools.ort_session import cpu_session, run_session
from deploykit.onnx_tools.uint8_input import takes_uint8
from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from onnx import ModelProto


def with_dynamic_side(model: "ModelProto") -> "ModelProto":
    """A copy that takes images of any height and width."""
    dynamic = type(model)()
    dynamic.CopyFrom(model)
    del dynamic.graph.value_info[:]
    first = 1 if takes_uint8(model) else 2
    for axis, name in enumerate(("height", "width"), first):
        dynamic.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return dynamic


def require_sides(model: "ModelProto", side: SideRange) -> None:
    """Fails where the model doesn't take the smallest and the largest side.

    Args:
        model: FP32, of one side.

    Raises:
        DeployError: it doesn't.
    """
    session = cpu_session(with_dynamic_side(model).SerializeToString())
    for side_px in {side.min, side.max}:
        try:
            run_session(session, np.zeros((1, 3, side_px, side_px), np.float32))
        except DeployError as error:
            raise DeployError(
                f"The model can't take images of {side_px} px: {error.problem}",
                code="dynamic-side-unsupported",
                fix="leave out --side, or export a model that pools over the whole map before its classifier",
            ) from error
