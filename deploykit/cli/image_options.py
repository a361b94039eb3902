"""Options that say how images are read; every command with --data has them."""

from dataclasses import dataclass

import click

from deploykit.cli.option_groups import option_group
from deploykit.data.preprocessing import INTERPOLATIONS, NO_OVERRIDES, Channels, Interpolation, Overrides
from deploykit.util.errors import DeployError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How images are read.

    Attributes:
        skip_bad: Leave out images that can't be read.
        overrides: Preprocessing that differs from what the model records.
    """

    skip_bad: bool = False
    overrides: Overrides = NO_OVERRIDES


def _build(
    *,
    skip_bad: bool,
    mean: str | None,
    std: str | None,
    interpolation: Interpolation | None,
    crop_padding_px: int | None,
) -> ImageOptions:
    overrides = Overrides(
        mean=parse_channels(mean, "--mean"),
        std=parse_channels(std, "--std"),
        interpolation=interpolation,
        crop_padding_px=crop_padding_px,
    )
    return ImageOptions(skip_bad=skip_bad, overrides=overrides)


image_options = option_group(
    "image_options",
    _build,
    (
        click.option("--skip-bad", is_flag=True, help="Skip images that can't be read."),
        click.option(
            "--mean",
            metavar="R,G,B",
            help="Mean that is subtracted from pixels between 0 and 1; default: the model's.",
        ),
        click.option(
            "--std",
            metavar="R,G,B",
            help="Standard deviation that pixels are divided by; default: the model's.",
        ),
        click.option(
            "--interpolation",
            type=click.Choice(INTERPOLATIONS),
            help="Interpolation of the resizing; default: the model's.",
        ),
        click.option(
            "--crop-padding",
            "crop_padding_px",
            type=click.IntRange(min=0),
            metavar="PX",
            help="Pixels by which the resized shorter side exceeds the centre crop; default: the model's.",
        ),
    ),
)


def parse_channels(text: str | None, option: str) -> Channels | None:
    """Return `0.485,0.456,0.406` as three numbers.

    Raises:
        DeployError: The text is not three numbers.
    """
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError as error:
        raise DeployError(
            f"{option} takes three numbers, not {text!r}.",
            code="invalid-option-value",
            fix=f"write {option} 0.5,0.5,0.5",
        ) from error
    return red, green, blue
