"""ResNet v1.5 with timm's parameter names: the networks whose latencies are published most widely.

References:
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, Table 1.
    v1.5 (a bottleneck strides in its 3x3, not its first 1x1): NVIDIA, DeepLearningExamples, ResNet50 v1.5.
    Parameter names: timm, timm/models/resnet.py.
"""

from typing import NamedTuple

from deploykit.architecture.builder import NetworkBuilder
from deploykit.architecture.graph import Network
from deploykit.errors import DeployError


class Variant(NamedTuple):
    """Residual blocks of one depth: their kind, and how many a stage."""

    bottleneck: bool
    repeats: tuple[int, int, int, int]


VARIANTS = {  # arXiv:1512.03385, Table 1
    18: Variant(bottleneck=False, repeats=(2, 2, 2, 2)),
    34: Variant(bottleneck=False, repeats=(3, 4, 6, 3)),
    50: Variant(bottleneck=True, repeats=(3, 4, 6, 3)),
    101: Variant(bottleneck=True, repeats=(3, 4, 23, 3)),
    152: Variant(bottleneck=True, repeats=(3, 8, 36, 3)),
}
STEM_CHANNELS = 64
BOTTLENECK_EXPANSION = 4


def resnet(depth: int, *, num_classes: int = 1000, side_px: int = 224) -> Network:
    """The network with `depth` weighted layers.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: outputs of the classifier.
        side_px: input height and width, pixels.

    Raises:
        DeployError: no such depth was published.
    """
    if depth not in VARIANTS:
        raise DeployError(
            f"There is no ResNet-{depth}.", fix=f"use a depth of {', '.join(map(str, VARIANTS))}"
        )
    bottleneck, repeats = VARIANTS[depth]
    net = NetworkBuilder(side_px)
    net.block = "stem"
    net.conv("conv1", STEM_CHANNELS, kernel=7, stride=2, norm="bn1")
    net.activation("relu")
    net.max_pool("maxpool", kernel=3, stride=2)
    for stage, count in enumerate(repeats):
        for repeat in range(count):
            stride = 2 if stage > 0 and repeat == 0 else 1
            _residual(net, f"layer{stage + 1}.{repeat}", STEM_CHANNELS << stage, stride, bottleneck)
    net.block = "head"
    net.global_average_pool("global_pool")
    net.linear("fc", num_classes)
    return net.network("resnet")


def _residual(net: NetworkBuilder, block: str, channels: int, stride: int, bottleneck: bool) -> None:
    """conv1..conv2 or conv1..conv3, each with its norm; the last one's activation follows the sum."""
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
