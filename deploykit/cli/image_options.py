"""How images are read: the options that every command with --data shares."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from deploykit.data.preprocessing import INTERPOLATIONS, NO_OVERRIDES, Channels, Overrides
from deploykit.util.errors import DeployError

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """What a user says about images.

    Attributes:
        skip_bad: leave out images that can't be read.
        overrides: what to do to them differently from what the model says.
    """

    skip_bad: bool = False
    overrides: Overrides = NO_OVERRIDES


def image_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the options to a command, which gets them as one argument: image_options."""

    @functools.wraps(command)
    def with_options(
        *,
        skip_bad: bool,
        mean: str | None,
        std: str | None,
        interpolation: str | None,
        crop_padding_px: int | None,
        **others: Any,
    ) -> R:
        overrides = Overrides(
            mean=channels(mean, "--mean"),
            std=channels(std, "--std"),
            interpolation=next((each for each in INTERPOLATIONS if each == interpolation), None),
            crop_padding_px=crop_padding_px,
        )
        return command(image_options=ImageOptions(skip_bad=skip_bad, overrides=overrides), **others)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options


_OPTIONS = (
    click.option("--skip-bad", is_flag=True, help="Leave out images that can't be read."),
    click.option("--mean", metavar="R,G,B", help="Subtracted from 0..1; default: as the model records."),
    click.option("--std", metavar="R,G,B", help="Divided by then; default: as the model records."),
    click.option(
        "--interpolation",
        type=click.Choice(INTERPOLATIONS),
        help="Of resizing; default: as the model records.",
    ),
    click.option(
        "--crop-padding",
        "crop_padding_px",
        type=click.IntRange(min=0),
        metavar="PX",
        help="Cut off around the centre, of a side; default: as the model records.",
    ),
)


def channels(text: str | None, option: str) -> Channels | None:
    """`0.485,0.456,0.406` -> three numbers.

    Raises:
        DeployError: that is not what it says.
    """
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError as error:
        raise DeployError(
            f"{option} {text!r} is not three numbers.",
            code="invalid-option-value",
            fix=f"write {option} 0.5,0.5,0.5",
        ) from error
    return red, green, blue
