"""MobileNetV2 at any width, with timm's parameter names.

References:
    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
    arXiv:1801.04381, Table 2.
    Parameter names: timm, timm/models/efficientnet.py (mobilenetv2_100, mobilenetv2_140).
"""

from typing import NamedTuple

from deploykit.architecture.builder import NetworkBuilder, round_channels
from deploykit.architecture.graph import Network


class Stage(NamedTuple):
    """Inverted residual blocks of one resolution."""

    stride: int
    expansion: int
    channels: int
    repeats: int


BASELINE = (  # arXiv:1801.04381, Table 2
    Stage(stride=1, expansion=1, channels=16, repeats=1),
    Stage(stride=2, expansion=6, channels=24, repeats=2),
    Stage(stride=2, expansion=6, channels=32, repeats=3),
    Stage(stride=2, expansion=6, channels=64, repeats=4),
    Stage(stride=1, expansion=6, channels=96, repeats=3),
    Stage(stride=2, expansion=6, channels=160, repeats=3),
    Stage(stride=1, expansion=6, channels=320, repeats=1),
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
    for stage_index, stage in enumerate(BASELINE):
        channels = round_channels(stage.channels * width)
        for repeat in range(stage.repeats):
            _inverted_residual(
                net,
                f"blocks.{stage_index}.{repeat}",
                stage._replace(stride=stage.stride if repeat == 0 else 1, channels=channels),
            )
    net.block = "head"
    net.conv("conv_head", round_channels(HEAD_CHANNELS * max(1.0, width)), norm="bn2")
    net.activation("relu6")
    net.global_average_pool("global_pool")
    net.linear("classifier", num_classes)
    return net.network("mobilenet_v2")


def _inverted_residual(net: NetworkBuilder, block: str, stage: Stage) -> None:
    """Expand, depthwise, project without activation, residual."""
    net.block = block
    shortcut = net.latest
    in_channels = net.channels(shortcut)
    expanded = in_channels * stage.expansion
    norms = iter((f"{block}.bn1", f"{block}.bn2", f"{block}.bn3"))
    if stage.expansion > 1:
        net.conv(f"{block}.conv_pw", expanded, norm=next(norms))
        net.activation("relu6")
    net.conv(f"{block}.conv_dw", expanded, kernel=3, stride=stage.stride, groups=expanded, norm=next(norms))
    net.activation("relu6")
    # timm calls the projection conv_pwl, except where there is no expansion before it.
    project = f"{block}.conv_pwl" if stage.expansion > 1 else f"{block}.conv_pw"
    net.conv(project, stage.channels, norm=next(norms))
    if stage.stride == 1 and in_channels == stage.channels:
        net.add(f"{block}.add", project, shortcut)
