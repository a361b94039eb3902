"""Options that say how a checkpoint is read."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from deploykit.data.preprocessing import NORMALIZATIONS
from deploykit.networks.checkpoints.sources.registry import SOURCE_NAMES

R = TypeVar("R")

_OPTIONS = (
    click.option(
        "--source",
        type=click.Choice(["auto", *SOURCE_NAMES]),
        default="auto",
        show_default=True,
        help="Whose names the weights have; auto tells by them, and TensorFlow's under timm's by a file "
        "called tf_.",
    ),
    click.option("--ema", is_flag=True, help="Take the weights' moving average from the checkpoint."),
    click.option("--num-classes", type=click.IntRange(min=1), help="Default: the checkpoint's, else 1000."),
    click.option(
        "--normalization",
        type=click.Choice(list(NORMALIZATIONS)),
        help="Of the images it was trained on; default as source and file name tell: inception for AdvProp "
        "and some of TensorFlow's.",
    ),
)


def checkpoint_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the options to a command; it gets them as arguments of export.export_onnx."""

    @functools.wraps(command)
    def with_options(*, source: str, **others: Any) -> R:
        return command(source=next((each for each in SOURCE_NAMES if each == source), None), **others)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options
