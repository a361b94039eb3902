"""EfficientNet at any scale, with timm's parameter names.

References:
    Tan and Le, arXiv:1905.11946, Table 1 (the baseline B0).
    Parameter names: timm, timm/models/efficientnet.py and _efficientnet_blocks.py.
"""

import math
from typing import NamedTuple

from deploykit.architecture.builder import NetworkBuilder, round_channels
from deploykit.architecture.graph import Network
from deploykit.scaling import Scale


class Stage(NamedTuple):
    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


BASELINE = (  # arXiv:1905.11946, Table 1, stages 2 to 8
    Stage(kernel=3, stride=1, expansion=1, channels=16, repeats=1),
    Stage(kernel=3, stride=2, expansion=6, channels=24, repeats=2),
    Stage(kernel=5, stride=2, expansion=6, channels=40, repeats=2),
    Stage(kernel=3, stride=2, expansion=6, channels=80, repeats=3),
    Stage(kernel=5, stride=1, expansion=6, channels=112, repeats=3),
    Stage(kernel=5, stride=2, expansion=6, channels=192, repeats=4),
    Stage(kernel=3, stride=1, expansion=6, channels=320, repeats=1),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
SQUEEZE_RATIO = 0.25  # of a block's input channels; section 4 and arXiv:1807.11626


def efficientnet(scale: Scale, *, num_classes: int = 1000) -> Network:
    """The network at `scale`; its input is `scale.side_px` square, RGB."""
    net = NetworkBuilder(scale.side_px)
    net.block = "stem"
    net.conv("conv_stem", round_channels(STEM_CHANNELS * scale.width), kernel=3, stride=2, norm="bn1")
    net.activation("silu")
    for stage_index, stage in enumerate(BASELINE):
        for repeat in range(math.ceil(stage.repeats * scale.depth)):
            _mbconv(
                net,
                f"blocks.{stage_index}.{repeat}",
                stage._replace(
                    stride=stage.stride if repeat == 0 else 1,
                    channels=round_channels(stage.channels * scale.width),
                ),
            )
    net.block = "head"
    net.conv("conv_head", round_channels(HEAD_CHANNELS * scale.width), norm="bn2")
    net.activation("silu")
    net.global_average_pool("global_pool")
    net.linear("classifier", num_classes)
    return net.network("efficientnet")


def _mbconv(net: NetworkBuilder, block: str, stage: Stage) -> None:
    """Inverted bottleneck: expand, depthwise, squeeze-excite, project, residual."""
    net.block = block
    shortcut = net.latest
    in_channels = net.channels(shortcut)
    expanded = in_channels * stage.expansion
    norms = iter((f"{block}.bn1", f"{block}.bn2", f"{block}.bn3"))
    if stage.expansion > 1:
        net.conv(f"{block}.conv_pw", expanded, norm=next(norms))
        net.activation("silu")
    net.conv(
        f"{block}.conv_dw",
        expanded,
        kernel=stage.kernel,
        stride=stage.stride,
        groups=expanded,
        norm=next(norms),
    )
    net.activation("silu")
    _squeeze_excite(net, f"{block}.se", round(in_channels * SQUEEZE_RATIO))
    # timm calls the projection conv_pwl, except where there is no expansion before it.
    project = f"{block}.conv_pwl" if stage.expansion > 1 else f"{block}.conv_pw"
    net.conv(project, stage.channels, norm=next(norms))
    if stage.stride == 1 and in_channels == stage.channels:
        net.add(f"{block}.add", project, shortcut)


def _squeeze_excite(net: NetworkBuilder, prefix: str, squeezed: int) -> None:
    x = net.latest
    net.global_average_pool(f"{prefix}.pool")
    net.conv(f"{prefix}.conv_reduce", squeezed)
    net.activation("silu")
    net.conv(f"{prefix}.conv_expand", net.channels(x))
    factors = net.activation("sigmoid")
    net.channel_scale(f"{prefix}.scale", x, factors)
