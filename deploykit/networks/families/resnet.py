"""ResNet v1.5 at any scale, with timm's parameter names: depth multiplies blocks, width multiplies channels.

References:
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, Table 1.
    v1.5 (a bottleneck strides in its 3x3, not its first 1x1): NVIDIA, DeepLearningExamples, ResNet50 v1.5.
    Parameter names: timm, timm/models/resnet.py.
"""

import math
from typing import NamedTuple

from deploykit.networks.architecture.builder import NetworkBuilder, round_channels
from deploykit.networks.architecture.network import Network
from deploykit.networks.families.family import DEFAULT_CLASSES, Family, published_accuracies
from deploykit.networks.scaling import BASE, Scale
from deploykit.util.errors import DeployError


class ResNetVariant(NamedTuple):
    """The residual blocks of a published depth: their kind, and their number per stage."""

    bottleneck: bool
    repeats: tuple[int, int, int, int]


RESNET_VARIANTS = {  # arXiv:1512.03385, Table 1
    18: ResNetVariant(bottleneck=False, repeats=(2, 2, 2, 2)),
    34: ResNetVariant(bottleneck=False, repeats=(3, 4, 6, 3)),
    50: ResNetVariant(bottleneck=True, repeats=(3, 4, 6, 3)),
    101: ResNetVariant(bottleneck=True, repeats=(3, 4, 23, 3)),
    152: ResNetVariant(bottleneck=True, repeats=(3, 8, 36, 3)),
}
_STEM_CHANNELS = 64
BOTTLENECK_EXPANSION = 4


def resnet(layers: int, scale: Scale = BASE, *, num_classes: int = DEFAULT_CLASSES) -> Network:
    """Build a ResNet at `scale`; its input is RGB, `scale.side_px` square.

    Args:
        layers: Number of weighted layers before scaling: 18, 34, 50, 101 or 152.
        scale: How far to scale it.
        num_classes: Number of classes.

    Raises:
        DeployError: No ResNet of this depth was published.
    """
    if layers not in RESNET_VARIANTS:
        raise DeployError(
            f"ResNet-{layers} is not a published ResNet.",
            code="unknown-member",
            fix=f"use a depth of {', '.join(map(str, RESNET_VARIANTS))}",
        )
    bottleneck, repeats = RESNET_VARIANTS[layers]
    stem = round_channels(_STEM_CHANNELS * scale.width)
    net = NetworkBuilder(scale.side_px)
    net.block = "stem"
    net.conv("conv1", stem, kernel=7, stride=2, norm="bn1")
    net.activation("relu")
    net.max_pool("maxpool", kernel=3, stride=2)
    for stage, count in enumerate(repeats):
        for repeat in range(math.ceil(count * scale.depth)):
            stride = 2 if stage > 0 and repeat == 0 else 1
            _add_block(net, f"layer{stage + 1}.{repeat}", stem << stage, stride, bottleneck)
    net.block = "head"
    net.global_average_pool("global_pool")
    net.linear("fc", num_classes)
    return net.network(f"resnet{layers}")


def _add_block(net: NetworkBuilder, block: str, channels: int, stride: int, bottleneck: bool) -> None:
    """Append conv1 and conv2, or conv1 to conv3, each with its norm; the last activation follows the sum."""
    net.block = block
    shortcut = net.latest
    out_channels = channels * BOTTLENECK_EXPANSION if bottleneck else channels
    if bottleneck:
        net.conv(f"{block}.conv1", channels, norm=f"{block}.bn1")
        net.activation("relu")
        net.conv(f"{block}.conv2", channels, kernel=3, stride=stride, norm=f"{block}.bn2")
        net.activation("relu")
        main = net.conv(f"{block}.conv3", out_channels, norm=f"{block}.bn3")
    else:
        net.conv(f"{block}.conv1", channels, kernel=3, stride=stride, norm=f"{block}.bn1")
        net.activation("relu")
        main = net.conv(f"{block}.conv2", channels, kernel=3, norm=f"{block}.bn2")
    if stride != 1 or net.channels(shortcut) != out_channels:
        shortcut = net.conv(
            f"{block}.downsample.0", out_channels, x=shortcut, stride=stride, norm=f"{block}.downsample.1"
        )
    net.add(f"{block}.add", main, shortcut)
    net.activation("relu")


def _family(layers: int, top1_percent: float) -> Family:
    return Family(
        name=f"resnet{layers}",
        title=f"ResNet-{layers}",
        build=lambda scale, classes: resnet(layers, scale, num_classes=classes),
        ladder=(BASE,),
        members={str(layers): BASE},
        source="He et al. 2016, arXiv:1512.03385",
        accuracy=published_accuracies({BASE: top1_percent}, "torchvision's model pages, IMAGENET1K_V1"),
    )


FAMILIES = tuple(
    _family(layers, percent)
    for layers, percent in ((18, 69.758), (34, 73.314), (50, 76.130), (101, 77.374), (152, 78.312))
)
