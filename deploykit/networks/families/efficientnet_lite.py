"""EfficientNet-Lite: without squeeze-excite and swish, and with stem and head of one size, for quantized use.

References:
    tensorflow/tpu, models/official/efficientnet/lite, efficientnet_lite_builder.py and README.md.
"""

from deploykit.networks.architecture.mbconv import Baseline, mbconv_network
from deploykit.networks.families import efficientnet
from deploykit.networks.families.family import Family, published_accuracies
from deploykit.networks.scaling import Scale

_BASELINE = Baseline(
    stem=efficientnet.EFFICIENTNET_BASELINE.stem,
    stages=efficientnet.EFFICIENTNET_BASELINE.stages,
    head=efficientnet.EFFICIENTNET_BASELINE.head,
    activation="relu6",
    squeezes=False,
    scales_ends=False,
)
_NAME = "efficientnet-lite"
_SOURCE = "tensorflow/tpu, models/official/efficientnet/lite/README.md"
_LADDER = tuple(
    Scale(width=width, depth=depth, side_px=side_px)
    for width, depth, side_px in (
        (1.0, 1.0, 224),
        (1.0, 1.1, 240),
        (1.1, 1.2, 260),
        (1.2, 1.4, 280),
        (1.4, 1.8, 300),
    )
)

FAMILY = Family(
    name=_NAME,
    title="EfficientNet-Lite",
    build=lambda scale, classes: mbconv_network(_NAME, _BASELINE, scale, classes),
    ladder=_LADDER,
    members={f"lite{phi}": scale for phi, scale in enumerate(_LADDER)},
    source=_SOURCE,
    accuracy=published_accuracies(dict(zip(_LADDER, (75.1, 76.7, 77.6, 79.8, 81.5), strict=True)), _SOURCE),
)
