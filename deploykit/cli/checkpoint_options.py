"""Options that say how a checkpoint is read."""

from dataclasses import dataclass
from typing import Literal

import click

from deploykit.cli.option_groups import option_group
from deploykit.data.preprocessing import NORMALIZATIONS, Normalization
from deploykit.networks.checkpoints.sources.registry import SOURCE_NAMES, SourceName


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions:
    """How a checkpoint is read.

    Attributes:
        source: The library whose tensor names the checkpoint has; None to recognize it.
        ema: Take the exponential moving average of the weights.
        num_classes: Number of classes; None for the checkpoint's, or else 1000.
        normalization: Normalization of the training images; None for the one the source implies.
    """

    source: SourceName | None
    ema: bool
    num_classes: int | None
    normalization: Normalization | None


def _build(
    *,
    source: SourceName | Literal["auto"],
    ema: bool,
    num_classes: int | None,
    normalization: Normalization | None,
) -> CheckpointOptions:
    return CheckpointOptions(
        source=None if source == "auto" else source,
        ema=ema,
        num_classes=num_classes,
        normalization=normalization,
    )


checkpoint_options = option_group(
    "checkpoint",
    _build,
    (
        click.option(
            "--source",
            type=click.Choice(["auto", *SOURCE_NAMES]),
            default="auto",
            show_default=True,
            help="Library whose tensor names the checkpoint has. auto recognizes them; a file name with tf_ "
            "means TensorFlow's weights under timm's names.",
        ),
        click.option("--ema", is_flag=True, help="Use the checkpoint's moving average of the weights."),
        click.option(
            "--num-classes",
            type=click.IntRange(min=1),
            help="Number of classes; default: the checkpoint's, else 1000.",
        ),
        click.option(
            "--normalization",
            type=click.Choice(list(NORMALIZATIONS)),
            help="Normalization of the training images; default: by source and file name (inception for "
            "AdvProp and some TensorFlow weights).",
        ),
    ),
)
