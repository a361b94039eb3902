"""RegNetY at any scale, with timm's parameter names: depth multiplies blocks, width multiplies channels.

References:
    Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, arXiv:2003.13678, Table 10.
    Parameter names: timm, timm/models/regnet.py.
"""

import math
from typing import NamedTuple

from deploykit.networks.architecture.builder import NetworkBuilder, round_channels
from deploykit.networks.architecture.network import Network
from deploykit.networks.families.family import Family, published_accuracies
from deploykit.networks.scaling import BASE, Scale

_STEM_CHANNELS = 32
_SQUEEZE_RATIO = 0.25  # of the block's input channels; arXiv:2003.13678, section 5


class RegNetVariant(NamedTuple):
    """A published RegNetY.

    repeats: Blocks per stage. channels: Channels per stage. group: Channels per group of 3x3 convolutions.
    """

    repeats: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    group: int


REGNET_VARIANTS = {  # by multiply-accumulates in millions; arXiv:2003.13678, Table 10
    200: RegNetVariant(repeats=(1, 1, 4, 7), channels=(24, 56, 152, 368), group=8),
    400: RegNetVariant(repeats=(1, 3, 6, 6), channels=(48, 104, 208, 440), group=8),
    600: RegNetVariant(repeats=(1, 3, 7, 4), channels=(48, 112, 256, 608), group=16),
    800: RegNetVariant(repeats=(1, 3, 8, 2), channels=(64, 128, 320, 768), group=16),
}


def regnety(mega_macs: int, scale: Scale, num_classes: int) -> Network:
    """Build a RegNetY at `scale`.

    Args:
        mega_macs: Multiply-accumulates before scaling, in millions: 200, 400, 600 or 800.
        scale: How far to scale it; its input is RGB, `scale.side_px` square.
        num_classes: Number of classes.
    """
    repeats, channels, group = REGNET_VARIANTS[mega_macs]
    net = NetworkBuilder(scale.side_px)
    net.block = "stem"
    net.conv("stem.conv", round_channels(_STEM_CHANNELS * scale.width), kernel=3, stride=2, norm="stem.bn")
    net.activation("relu")
    for stage, (count, base_channels) in enumerate(zip(repeats, channels, strict=True)):
        width = round_channels(base_channels * scale.width, divisor=group)
        for repeat in range(math.ceil(count * scale.depth)):
            block = f"s{stage + 1}.b{repeat + 1}"
            _add_block(net, block, width, stride=2 if repeat == 0 else 1, groups=width // group)
    net.block = "head"
    net.global_average_pool("head.global_pool")
    net.linear("head.fc", num_classes)
    return net.network(f"regnety-{mega_macs}mf")


def _add_block(net: NetworkBuilder, block: str, channels: int, *, stride: int, groups: int) -> None:
    """Append 1x1, grouped 3x3, squeeze-excite and 1x1; the last activation follows the sum."""
    net.block = block
    shortcut = net.latest
    in_channels = net.channels(shortcut)
    net.conv(f"{block}.conv1.conv", channels, norm=f"{block}.conv1.bn")
    net.activation("relu")
    net.conv(
        f"{block}.conv2.conv", channels, kernel=3, stride=stride, groups=groups, norm=f"{block}.conv2.bn"
    )
    x = net.activation("relu")
    net.global_average_pool(f"{block}.se.pool")
    net.conv(f"{block}.se.fc1", round(in_channels * _SQUEEZE_RATIO))
    net.activation("relu")
    net.conv(f"{block}.se.fc2", channels)
    factors = net.activation("sigmoid")
    net.channel_scale(f"{block}.se.scale", x, factors)
    main = net.conv(f"{block}.conv3.conv", channels, norm=f"{block}.conv3.bn")
    if stride != 1 or in_channels != channels:
        shortcut = net.conv(
            f"{block}.downsample.conv", channels, x=shortcut, stride=stride, norm=f"{block}.downsample.bn"
        )
    net.add(f"{block}.add", main, shortcut)
    net.activation("relu")


def _family(mega_macs: int, top1_percent: float) -> Family:
    return Family(
        name=f"regnety-{mega_macs}mf",
        title=f"RegNetY-{mega_macs}MF",
        build=lambda scale, classes: regnety(mega_macs, scale, classes),
        ladder=(BASE,),
        members={f"{mega_macs}mf": BASE},
        source="Radosavovic et al. 2020, arXiv:2003.13678",
        accuracy=published_accuracies({BASE: top1_percent}, "facebookresearch/pycls, MODEL_ZOO.md"),
    )


FAMILIES = tuple(_family(*each) for each in ((200, 70.3), (400, 74.1), (600, 75.5), (800, 76.3)))
