"""EfficientNet at any scale.

References:
    Tan and Le, arXiv:1905.11946, Table 1 (the baseline B0), Tables 2 and 7 (accuracies).
    B0 to B8 and L2: tensorflow/tpu, efficientnet_builder.py, efficientnet_params.
"""

from dataclasses import replace

from deploykit.networks.architecture.mbconv import Baseline, Stage, build_mbconv_network
from deploykit.networks.architecture.network import Network
from deploykit.networks.families.family import DEFAULT_CLASSES, Family, published_accuracies
from deploykit.networks.scaling import BASE, PUBLISHED_SCALES, Scale

EFFICIENTNET_BASELINE = Baseline(  # arXiv:1905.11946, Table 1
    stem_channels=32,
    stages=(
        Stage(kernel=3, stride=1, expansion=1, channels=16, repeats=1),
        Stage(kernel=3, stride=2, expansion=6, channels=24, repeats=2),
        Stage(kernel=5, stride=2, expansion=6, channels=40, repeats=2),
        Stage(kernel=3, stride=2, expansion=6, channels=80, repeats=3),
        Stage(kernel=5, stride=1, expansion=6, channels=112, repeats=3),
        Stage(kernel=5, stride=2, expansion=6, channels=192, repeats=4),
        Stage(kernel=3, stride=1, expansion=6, channels=320, repeats=1),
    ),
    head_channels=1280,
    activation="silu",
)
_NAME = "efficientnet"
_PAPER = "Tan and Le 2019, arXiv:1905.11946"
_TOP1_PERCENT = (77.1, 79.1, 80.1, 81.6, 82.9, 83.6, 84.0, 84.3)
_SINGLE_AXIS_TOP1_PERCENT = {  # B0 scaled along one axis
    replace(BASE, depth=4.0): 79.0,
    replace(BASE, width=2.0): 78.9,
    replace(BASE, side_px=2 * BASE.side_px): 79.1,
}


def efficientnet(scale: Scale, *, num_classes: int = DEFAULT_CLASSES) -> Network:
    """Build the network at `scale`; its input is RGB, `scale.side_px` square."""
    return build_mbconv_network(_NAME, EFFICIENTNET_BASELINE, scale, num_classes)


FAMILY = Family(
    name=_NAME,
    title="EfficientNet",
    build=lambda scale, classes: efficientnet(scale, num_classes=classes),
    ladder=PUBLISHED_SCALES,
    members={
        **{f"b{phi}": scale for phi, scale in enumerate(PUBLISHED_SCALES)},
        "b8": Scale(width=2.2, depth=3.6, side_px=672),
        "l2": Scale(width=4.3, depth=5.3, side_px=800),
    },
    source=_PAPER,
    accuracy={
        **published_accuracies(dict(zip(PUBLISHED_SCALES, _TOP1_PERCENT, strict=True)), f"{_PAPER}, Table 2"),
        **published_accuracies(_SINGLE_AXIS_TOP1_PERCENT, f"{_PAPER}, Table 7"),
    },
)
