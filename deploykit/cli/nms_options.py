"""Options that say how overlapping boxes are suppressed."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from deploykit.onnx_tools.nms import Nms
from deploykit.util.errors import DeployError

_OPTIONS = (
    click.option("--nms", "suppresses", is_flag=True, help="Of a detector: suppress overlapping boxes too."),
    click.option("--score-threshold", type=float, help="Least score of a detection, 0 to 1; default 0.05."),
    click.option("--iou-threshold", type=float, help="Overlap that suppresses a box, 0 to 1; default 0.5."),
    click.option("--max-detections", type=int, help="Of an image; default 100."),
)


def nms_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options above, as one argument `nms`."""

    @wraps(command)
    def with_nms(
        *,
        suppresses: bool,
        score_threshold: float | None,
        iou_threshold: float | None,
        max_detections: int | None,
        **others: Any,
    ) -> None:
        given: dict[str, Any] = {
            "score_threshold": score_threshold,
            "iou_threshold": iou_threshold,
            "max_detections": max_detections,
        }
        known = {name: value for name, value in given.items() if value is not None}
        if known and not suppresses:
            option = next(iter(known)).replace("_", "-")
            raise DeployError(
                f"--{option} is for --nms.", code="option-not-applicable", fix="add --nms, or leave it out"
            )
        command(nms=Nms(**known) if suppresses else None, **others)

    for option in reversed(_OPTIONS):
        with_nms = option(with_nms)
    return with_nms
