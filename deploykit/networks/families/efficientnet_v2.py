"""EfficientNetV2: fused blocks in the early stages. B0 to B3 share a baseline; S, M and L have one each.

References:
    Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", arXiv:2104.00298, Table 4 (S).
    google/automl, efficientnetv2/effnetv2_configs.py (all; evaluation sides), README.md (accuracies).
"""

from deploykit.networks.architecture.mbconv import Baseline, BlockKind, Stage, build_mbconv_network
from deploykit.networks.families.family import Family, published_accuracies
from deploykit.networks.scaling import Scale

_SOURCE = "google/automl, efficientnetv2"


def _baseline(stem_channels: int, *rows: tuple[BlockKind, int, int, int, int]) -> Baseline:
    """Return a baseline from rows of kind, stride, expansion, channels, repeats; every kernel is 3."""
    return Baseline(
        stem_channels=stem_channels,
        stages=tuple(
            Stage(kernel=3, kind=kind, stride=stride, expansion=expansion, channels=channels, repeats=repeats)
            for kind, stride, expansion, channels, repeats in rows
        ),
        head_channels=1280,
        activation="silu",
        min_rounding_ratio=0.0,
    )


_BASE = _baseline(
    32,
    ("plain", 1, 1, 16, 1),
    ("fused", 2, 4, 32, 2),
    ("fused", 2, 4, 48, 2),
    ("inverted", 2, 4, 96, 3),
    ("inverted", 1, 6, 112, 5),
    ("inverted", 2, 6, 192, 8),
)
_SMALL = _baseline(
    24,
    ("plain", 1, 1, 24, 2),
    ("fused", 2, 4, 48, 4),
    ("fused", 2, 4, 64, 4),
    ("inverted", 2, 4, 128, 6),
    ("inverted", 1, 6, 160, 9),
    ("inverted", 2, 6, 256, 15),
)
_MEDIUM = _baseline(
    24,
    ("plain", 1, 1, 24, 3),
    ("fused", 2, 4, 48, 5),
    ("fused", 2, 4, 80, 5),
    ("inverted", 2, 4, 160, 7),
    ("inverted", 1, 6, 176, 14),
    ("inverted", 2, 6, 304, 18),
    ("inverted", 1, 6, 512, 5),
)
_LARGE = _baseline(
    32,
    ("plain", 1, 1, 32, 4),
    ("fused", 2, 4, 64, 7),
    ("fused", 2, 4, 96, 7),
    ("inverted", 2, 4, 192, 10),
    ("inverted", 1, 6, 224, 19),
    ("inverted", 2, 6, 384, 25),
    ("inverted", 1, 6, 640, 7),
)


def _family(name: str, title: str, baseline: Baseline, members: dict[str, tuple[Scale, float]]) -> Family:
    return Family(
        name=name,
        title=title,
        build=lambda scale, classes: build_mbconv_network(name, baseline, scale, classes),
        ladder=tuple(scale for scale, _ in members.values()),
        members={member: scale for member, (scale, _) in members.items()},
        source=_SOURCE,
        accuracy=published_accuracies(dict(members.values()), f"{_SOURCE}/README.md"),
    )


FAMILIES = (
    _family(
        "efficientnetv2",
        "EfficientNetV2-B",
        _BASE,
        {
            "b0": (Scale(width=1.0, depth=1.0, side_px=224), 78.7),
            "b1": (Scale(width=1.0, depth=1.1, side_px=240), 79.8),
            "b2": (Scale(width=1.1, depth=1.2, side_px=260), 80.5),
            "b3": (Scale(width=1.2, depth=1.4, side_px=300), 82.1),
        },
    ),
    _family(
        "efficientnetv2-s",
        "EfficientNetV2-S",
        _SMALL,
        {"s": (Scale(width=1.0, depth=1.0, side_px=384), 83.9)},
    ),
    _family(
        "efficientnetv2-m",
        "EfficientNetV2-M",
        _MEDIUM,
        {"m": (Scale(width=1.0, depth=1.0, side_px=480), 85.2)},
    ),
    _family(
        "efficientnetv2-l",
        "EfficientNetV2-L",
        _LARGE,
        {"l": (Scale(width=1.0, depth=1.0, side_px=480), 85.7)},
    ),
)
