"""MobileNetV2 at any width, with timm's parameter names.

References:
    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
    arXiv:1801.04381, Table 2.
    Parameter names: timm, timm/models/efficientnet.py (mobilenetv2_100, mobilenetv2_140).
"""

from deploykit.architecture.builder import NetworkBuilder, round_channels
from deploykit.architecture.graph import Network
from deploykit.architecture.inverted_residual import Stage, add_stages

BASELINE = (  # arXiv:1801.04381, Table 2
    Stage(kernel=3, stride=1, expansion=1, channels=16, repeats=1),
    Stage(kernel=3, stride=2, expansion=6, channels=24, repeats=2),
    Stage(kernel=3, stride=2, expansion=6, channels=32, repeats=3),
    Stage(kernel=3, stride=2, expansion=6, channels=64, repeats=4),
    Stage(kernel=3, stride=1, expansion=6, channels=96, repeats=3),
    Stage(kernel=3, stride=2, expansion=6, channels=160, repeats=3),
    Stage(kernel=3, stride=1, expansion=6, channels=320, repeats=1),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


def mobilenet_v2(*, width: float = 1.0, side_px: int = 224, num_classes: int = 1000) -> Network:
    """The network `width` times as wide as the baseline.

    Args:
        width: multiplies channels; the head keeps at least its 1280 (section 6.1).
        side_px: input height and width, pixels.
        num_classes: outputs of the classifier.
    """
    net = NetworkBuilder(side_px)
    net.block = "stem"
    net.conv("conv_stem", round_channels(STEM_CHANNELS * width), kernel=3, stride=2, norm="bn1")
    net.activation("relu6")
    add_stages(net, BASELINE, depth=1.0, width=width, activation="relu6", squeeze_ratio=None)
    net.block = "head"
    net.conv("conv_head", round_channels(HEAD_CHANNELS * max(1.0, width)), norm="bn2")
    net.activation("relu6")
    net.global_average_pool("global_pool")
    net.linear("classifier", num_classes)
    return net.network("mobilenet_v2")
