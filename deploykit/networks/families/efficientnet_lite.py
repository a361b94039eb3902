"""EfficientNet-Lite, made for quantization: no squeeze-excite, ReLU6 for SiLU, stem and head of fixed size.

References:
    tensorflow/tpu, models/official/efficientnet/lite, efficientnet_lite_builder.py and README.md.
"""

from deploykit.networks.architecture.mbconv import Baseline, build_mbconv_network
from deploykit.networks.families import efficientnet
from deploykit.networks.families.family import Family, published_accuracies
from deploykit.networks.scaling import Scale

_BASELINE = Baseline(
    stem_channels=efficientnet.EFFICIENTNET_BASELINE.stem_channels,
    stages=efficientnet.EFFICIENTNET_BASELINE.stages,
    head_channels=efficientnet.EFFICIENTNET_BASELINE.head_channels,
    activation="relu6",
    has_squeeze_excite=False,
    scales_stem_and_head=False,
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
    build=lambda scale, classes: build_mbconv_network(_NAME, _BASELINE, scale, classes),
    ladder=_LADDER,
    members={f"lite{phi}": scale for phi, scale in enumerate(_LADDER)},
    source=_SOURCE,
    accuracy=published_accuracies(dict(zip(_LADDER, (75.1, 76.7, 77.6, 79.8, 81.5), strict=True)), _SOURCE),
)
