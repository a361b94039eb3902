"""EfficientNet at any scale, with timm's parameter names.

References:
    Tan and Le, arXiv:1905.11946, Table 1 (the baseline B0).
    Parameter names: timm, timm/models/efficientnet.py.
"""

from deploykit.architecture.builder import NetworkBuilder, round_channels
from deploykit.architecture.graph import Network
from deploykit.architecture.inverted_residual import Stage, add_stages
from deploykit.scaling import Scale

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
SQUEEZE_RATIO = 0.25  # section 4 and arXiv:1807.11626


def efficientnet(scale: Scale, *, num_classes: int = 1000) -> Network:
    """The network at `scale`; its input is `scale.side_px` square, RGB."""
    net = NetworkBuilder(scale.side_px)
    net.block = "stem"
    net.conv("conv_stem", round_channels(STEM_CHANNELS * scale.width), kernel=3, stride=2, norm="bn1")
    net.activation("silu")
    add_stages(
        net,
        BASELINE,
        depth=scale.depth,
        width=scale.width,
        activation="silu",
        squeeze_ratio=SQUEEZE_RATIO,
    )
    net.block = "head"
    net.conv("conv_head", round_channels(HEAD_CHANNELS * scale.width), norm="bn2")
    net.activation("silu")
    net.global_average_pool("global_pool")
    net.linear("classifier", num_classes)
    return net.network("efficientnet")
