"""Options that say how a detector suppresses overlapping boxes."""

import click

from deploykit.cli.option_groups import option_group
from deploykit.onnx_tools.nms import Nms
from deploykit.util.errors import DeployError


def _build(
    *, nms: bool, score_threshold: float | None, iou_threshold: float | None, max_detections: int | None
) -> Nms | None:
    given = {
        "--score-threshold": score_threshold,
        "--iou-threshold": iou_threshold,
        "--max-detections": max_detections,
    }
    without_effect = [option for option, value in given.items() if value is not None]
    if without_effect and not nms:
        raise DeployError(
            f"{without_effect[0]} has no effect without --nms.",
            code="option-not-applicable",
            fix=f"add --nms, or leave out {without_effect[0]}",
        )
    if not nms:
        return None
    default = Nms()
    return Nms(
        score_threshold=default.score_threshold if score_threshold is None else score_threshold,
        iou_threshold=default.iou_threshold if iou_threshold is None else iou_threshold,
        max_detections=default.max_detections if max_detections is None else max_detections,
    )


nms_options = option_group(
    "nms",
    _build,
    (
        click.option("--nms", is_flag=True, help="Add non-maximum suppression to a detector."),
        click.option(
            "--score-threshold", type=float, help="Lowest score of a detection, 0 to 1; default: 0.05."
        ),
        click.option(
            "--iou-threshold", type=float, help="Overlap at which a box is suppressed, 0 to 1; default: 0.5."
        ),
        click.option(
            "--max-detections", type=int, help="Largest number of detections per image; default: 100."
        ),
    ),
)
