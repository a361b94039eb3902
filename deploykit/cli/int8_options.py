"""What a user may say about INT8: the options that every command which quantizes shares."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from deploykit.cli.image_options import ImageOptions, image_options
from deploykit.cli.output import note
from deploykit.quantize.float_fallback import DEFAULT_FLOAT_BUDGET
from deploykit.quantize.int8_options import DEFAULT_MAX_DROP, Int8Options
from deploykit.quantize.placement import POLICIES

R = TypeVar("R")

_OPTIONS = (
    click.option("--data", help="Calibrate on this: folder of images, .npz, .toml, or `generated`."),
    click.option(
        "--ranges",
        type=click.Path(path_type=Path),
        help="Ranges file; default: this model's in calibration/.",
    ),
    click.option(
        "--int8-policy", type=click.Choice(POLICIES), help="What is in INT8; default: the compiler's."
    ),
    click.option(
        "--int8-include",
        multiple=True,
        metavar="PATTERN",
        help="Layers or blocks to add, as in blocks.0.0 or '*.conv_dw'.",
    ),
    click.option(
        "--int8-exclude", multiple=True, metavar="PATTERN", help="Layers or blocks to leave in float."
    ),
    click.option(
        "--int8-float-budget",
        type=float,
        default=100 * DEFAULT_FLOAT_BUDGET,
        show_default=True,
        metavar="PERCENT",
        help="Work that may stay in float where INT8 costs most accuracy; at least 75 % stays in INT8.",
    ),
    click.option("--int8-spare", type=float, hidden=True),  # the old name of --int8-float-budget
    click.option("--eval", "eval_data", help="Labelled images: keep top-1 within --max-drop on them."),
    click.option(
        "--max-drop", type=float, metavar="POINTS", help=f"Of top-1, with --eval; default {DEFAULT_MAX_DROP}."
    ),
)


def int8_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the options to a command, which gets them as one argument: int8."""

    @functools.wraps(command)
    def with_options(
        *,
        data: str | None,
        ranges: Path | None,
        int8_policy: str | None,
        int8_include: tuple[str, ...],
        int8_exclude: tuple[str, ...],
        int8_float_budget: float,
        int8_spare: float | None,
        eval_data: str | None,
        max_drop: float | None,
        image_options: ImageOptions,
        **others: Any,
    ) -> R:
        if int8_spare is not None:
            note("--int8-spare is now --int8-float-budget; the next release removes the old name.")
            int8_float_budget = int8_spare
        int8 = Int8Options(
            data=data,
            ranges=ranges,
            skip_bad=image_options.skip_bad,
            overrides=image_options.overrides,
            policy=next((policy for policy in POLICIES if policy == int8_policy), None),
            include=int8_include,
            exclude=int8_exclude,
            float_budget=int8_float_budget / 100,
            eval_data=eval_data,
            max_drop=max_drop,
        )
        return command(int8=int8, **others)

    decorated: Callable[..., R] = image_options(with_options)
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
