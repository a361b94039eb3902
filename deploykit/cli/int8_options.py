"""Options about INT8; every command that quantizes has them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from deploykit.cli.image_options import ImageOptions, image_options
from deploykit.cli.option_groups import Option, option_group
from deploykit.quantize.float_fallback import DEFAULT_FLOAT_BUDGET
from deploykit.quantize.int8_options import DEFAULT_MAX_DROP, Int8Options
from deploykit.quantize.placement import POLICIES, Policy

R = TypeVar("R")


def _build(
    *,
    data: str | None,
    ranges: Path | None,
    int8_policy: Policy | None,
    int8_include: tuple[str, ...],
    int8_exclude: tuple[str, ...],
    int8_float_budget: float,
    eval_data: str | None,
    max_drop: float | None,
    image_options: ImageOptions,
) -> Int8Options:
    return Int8Options(
        data=data,
        ranges=ranges,
        skip_bad=image_options.skip_bad,
        overrides=image_options.overrides,
        policy=int8_policy,
        include=int8_include,
        exclude=int8_exclude,
        float_budget=int8_float_budget / 100,
        eval_data=eval_data,
        max_drop=max_drop,
    )


_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--data", help="Images to calibrate on: a folder, a .npz, a manifest .toml, or `generated`."
    ),
    click.option(
        "--ranges",
        type=click.Path(path_type=Path),
        help="File of activation ranges; default: this model's in calibration/.",
    ),
    click.option(
        "--int8-policy",
        type=click.Choice(POLICIES),
        help="Which layers run in INT8; default: the compiler's policy.",
    ),
    click.option(
        "--int8-include",
        multiple=True,
        metavar="PATTERN",
        help="Layers or blocks to add to INT8, for example blocks.0.0 or '*.conv_dw'.",
    ),
    click.option(
        "--int8-exclude", multiple=True, metavar="PATTERN", help="Layers or blocks to keep in float."
    ),
    click.option(
        "--int8-float-budget",
        type=float,
        default=100 * DEFAULT_FLOAT_BUDGET,
        show_default=True,
        metavar="PERCENT",
        help="Share of the multiply-accumulates that may stay in float where INT8 costs most accuracy; at "
        "least 75 % stay in INT8.",
    ),
    click.option(
        "--eval",
        "eval_data",
        help="Labelled images to check the accuracy on: top-1 may drop by --max-drop at most.",
    ),
    click.option(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help=f"Largest drop of top-1 with --eval, in points; default: {DEFAULT_MAX_DROP}.",
    ),
)
_int8_group = option_group("int8", _build, _OPTIONS)


def int8_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options about INT8 and about images to a command, which gets them as `int8`."""
    return image_options(_int8_group(command))
