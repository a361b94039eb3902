"""MobileNetV2 at any scale.

References:
    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
    arXiv:1801.04381, Table 2 (the baseline), Table 4 (accuracies).
    Members, including those with fixed stem and head: timm, timm/models/efficientnet.py.
"""

from dataclasses import replace

from deploykit.networks.architecture.mbconv import Baseline, Stage, build_mbconv_network
from deploykit.networks.architecture.network import Network
from deploykit.networks.families.family import DEFAULT_CLASSES, Family, published_accuracies
from deploykit.networks.scaling import BASE, Scale

_BASELINE = Baseline(  # arXiv:1801.04381, Table 2
    stem_channels=32,
    stages=(
        Stage(kernel=3, stride=1, expansion=1, channels=16, repeats=1),
        Stage(kernel=3, stride=2, expansion=6, channels=24, repeats=2),
        Stage(kernel=3, stride=2, expansion=6, channels=32, repeats=3),
        Stage(kernel=3, stride=2, expansion=6, channels=64, repeats=4),
        Stage(kernel=3, stride=1, expansion=6, channels=96, repeats=3),
        Stage(kernel=3, stride=2, expansion=6, channels=160, repeats=3),
        Stage(kernel=3, stride=1, expansion=6, channels=320, repeats=1),
    ),
    head_channels=1280,
    min_head_channels=1280,  # section 6.1
    activation="relu6",
    has_squeeze_excite=False,
)
_FIXED_STEM_AND_HEAD = replace(_BASELINE, scales_stem_and_head=False)
_NAME, _FIXED_NAME = "mobilenet-v2", "mobilenet-v2-d"
_PAPER = "Sandler et al. 2018, arXiv:1801.04381, Table 4"


def mobilenet_v2(scale: Scale = BASE, *, num_classes: int = DEFAULT_CLASSES) -> Network:
    """Build the network at `scale`; its input is RGB, `scale.side_px` square."""
    return build_mbconv_network(_NAME, _BASELINE, scale, num_classes)


FAMILIES = (
    Family(
        name=_NAME,
        title="MobileNetV2",
        build=lambda scale, classes: mobilenet_v2(scale, num_classes=classes),
        ladder=(BASE,),
        members={f"{width:.2f}": replace(BASE, width=width) for width in (0.35, 0.5, 0.75, 1.0, 1.4)},
        source="Sandler et al. 2018, arXiv:1801.04381",
        accuracy=published_accuracies({BASE: 72.0, replace(BASE, width=1.4): 74.7}, _PAPER),
    ),
    Family(
        name=_FIXED_NAME,
        title="MobileNetV2 with fixed stem and head",
        build=lambda scale, classes: build_mbconv_network(_FIXED_NAME, _FIXED_STEM_AND_HEAD, scale, classes),
        ladder=(BASE,),
        members={
            "110d": replace(BASE, width=1.1, depth=1.2),
            "120d": replace(BASE, width=1.2, depth=1.4),
        },
        source="timm, mobilenetv2_110d and mobilenetv2_120d",
        accuracy={},
    ),
)
