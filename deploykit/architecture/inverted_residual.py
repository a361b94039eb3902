"""The block that MobileNetV2 and EfficientNet are made of, with timm's parameter names.

References:
    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.
    Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507.
    Parameter names: timm, timm/models/_efficientnet_blocks.py.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from deploykit.architecture.builder import NetworkBuilder, round_channels
from deploykit.architecture.graph import ActivationKind


class Stage(NamedTuple):
    """Blocks of one resolution; the first of them has the stride."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


def add_stages(
    net: NetworkBuilder,
    baseline: Iterable[Stage],
    *,
    depth: float,
    width: float,
    activation: ActivationKind,
    squeeze_ratio: float | None,
) -> None:
    """Appends the stages of a baseline, stretched.

    Args:
        depth: multiplies blocks per stage.
        width: multiplies channels.
        squeeze_ratio: squeeze-excite's width, of a block's input channels; None for none.
    """
    for stage_index, stage in enumerate(baseline):
        for repeat in range(math.ceil(stage.repeats * depth)):
            _add_block(
                net,
                f"blocks.{stage_index}.{repeat}",
                stage._replace(
                    stride=stage.stride if repeat == 0 else 1,
                    channels=round_channels(stage.channels * width),
                ),
                activation,
                squeeze_ratio,
            )


def _add_block(
    net: NetworkBuilder, block: str, stage: Stage, activation: ActivationKind, squeeze_ratio: float | None
) -> None:
    """Expand, depthwise, squeeze-excite, project without activation, residual."""
    net.block = block
    shortcut = net.latest
    in_channels = net.channels(shortcut)
    expanded = in_channels * stage.expansion
    norms = iter((f"{block}.bn1", f"{block}.bn2", f"{block}.bn3"))
    if stage.expansion > 1:
        net.conv(f"{block}.conv_pw", expanded, norm=next(norms))
        net.activation(activation)
    net.conv(
        f"{block}.conv_dw",
        expanded,
        kernel=stage.kernel,
        stride=stage.stride,
        groups=expanded,
        norm=next(norms),
    )
    net.activation(activation)
    if squeeze_ratio is not None:
        _add_squeeze_excite(net, f"{block}.se", round(in_channels * squeeze_ratio), activation)
    # timm calls the projection conv_pwl, except where there is no expansion before it.
    project = f"{block}.conv_pwl" if stage.expansion > 1 else f"{block}.conv_pw"
    net.conv(project, stage.channels, norm=next(norms))
    if stage.stride == 1 and in_channels == stage.channels:
        net.add(f"{block}.add", project, shortcut)


def _add_squeeze_excite(net: NetworkBuilder, prefix: str, squeezed: int, activation: ActivationKind) -> None:
    x = net.latest
    net.global_average_pool(f"{prefix}.pool")
    net.conv(f"{prefix}.conv_reduce", squeezed)
    net.activation(activation)
    net.conv(f"{prefix}.conv_expand", net.channels(x))
    factors = net.activation("sigmoid")
    net.channel_scale(f"{prefix}.scale", x, factors)
