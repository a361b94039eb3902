"""Checks before a build that its target can take the model, so that nothing slow runs in vain."""

from deploykit.engine.compilers import COMPILERS
from deploykit.engine.shapes import SideRange
from deploykit.engine.targets import Target
from deploykit.networks.model_info import ModelInfo
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision


def require_buildable(target: Target, info: ModelInfo, precision: Precision, side: SideRange | None) -> None:
    """Check that the target's compiler can build the model in this precision, for these sides.

    Args:
        info: Metadata of the exported model.
        side: Image sides that the engine accepts; None for only the model's own.

    Raises:
        DeployError: The compiler has no NMS kernel, the range of sides excludes the model's own, or the
            precision allows one side only.
    """
    if info.nms is not None and not COMPILERS[target.compiler].has_nms:
        raise DeployError(
            f"{target.compiler_title} has no kernel for non-maximum suppression.",
            code="nms-unsupported",
            fix="export without --nms and suppress the engine's boxes yourself, or build with --gpu cpu or "
            "--compiler tensorrt",
        )
    if side is not None:
        require_model_side(info, side)
    if side is not None and target.on_cpu and precision == "int8":
        raise DeployError(
            "INT8 for the CPU supports only one image side.",
            code="dynamic-side-unsupported",
            fix="remove --side, or remove --int8",
        )


def require_model_side(info: ModelInfo, side: SideRange) -> None:
    """Check that the range includes the side that the model's preprocessing produces.

    Raises:
        DeployError: The range excludes it.
    """
    model_px = info.preprocessing.side_px
    if model_px not in side:
        raise DeployError(
            f"The side range {side} does not include the model's own side, {model_px} px.",
            code="dynamic-side-unsupported",
            fix=f"give a range that includes {model_px}, or export the model with another --side",
        )
