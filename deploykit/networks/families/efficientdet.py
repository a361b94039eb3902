"""EfficientDet at any scale, with efficientdet-pytorch's parameter names.

An EfficientNet backbone, a pyramid of five levels (P3 to P7) that repeated BiFPN cells fuse, and two heads
that all levels share except for their batch norms.

References:
    Tan, Pang and Le, "EfficientDet: Scalable and Efficient Object Detection", CVPR 2020, arXiv:1911.09070.
    google/automl, efficientdet/hparams_config.py (the members as released), README.md (accuracies).
    Parameter names: rwightman/efficientdet-pytorch, effdet/efficientdet.py.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deploykit.networks.architecture.anchors import Anchors
from deploykit.networks.architecture.builder import NetworkBuilder, round_channels
from deploykit.networks.architecture.mbconv import add_stages
from deploykit.networks.architecture.network import Network
from deploykit.networks.families import efficientnet
from deploykit.networks.families.family import Family, published_accuracies
from deploykit.networks.scaling import Scale
from deploykit.util.errors import DeployError

NAME = "efficientdet"
COCO_CLASSES = 90  # COCO's category ids are 1 to 90
_MIN_SIDE_PX = 128  # P7 is 1 x 1
LEVELS = 5
_FINEST_STAGES = (2, 4, 6)  # the backbone stages that give P3, P4 and P5
_NORM_EPSILON = 1e-3  # of pyramid and heads; hparams_config.py, batch_norm_epsilon
_BASE_CHANNELS = 64
_ACTIVATION = efficientnet.EFFICIENTNET_BASELINE.activation
_SOURCE = "google/automl, efficientdet"


class _Released(NamedTuple):
    """A member as hparams_config.py has it (arXiv:1911.09070, Table 1); the backbone in multiples of B0."""

    side_px: int
    fpn_channels: int
    fpn_cells: int
    head_repeats: int
    backbone_width: float
    backbone_depth: float
    ap_percent: float  # COCO test-dev


_RELEASED = (
    _Released(512, 64, 3, 3, 1.0, 1.0, 34.6),
    _Released(640, 88, 4, 3, 1.0, 1.1, 40.5),
    _Released(768, 112, 5, 3, 1.1, 1.2, 43.0),
    _Released(896, 160, 6, 4, 1.2, 1.4, 47.5),
    _Released(1024, 224, 7, 4, 1.4, 1.8, 49.7),
    _Released(1280, 288, 7, 4, 1.6, 2.2, 51.5),
    _Released(1280, 384, 8, 5, 1.8, 2.6, 52.6),
    _Released(1536, 384, 8, 5, 1.8, 2.6, 53.7),
)
_LADDER = tuple(
    Scale(width=each.fpn_channels / _BASE_CHANNELS, depth=each.backbone_depth, side_px=each.side_px)
    for each in _RELEASED
)
_D6, _D7 = _LADDER[6:]
_ANCHOR_SCALES = {_D7: 5.0}  # hparams_config.py, efficientdet-d7


class _Sizes(NamedTuple):
    """The dimensions of a network at a scale.

    backbone: In multiples of EfficientNet-B0. channels: Of pyramid and heads. cells: Number of BiFPN cells.
    head_repeats: Convolutions per head. has_weighted_sums: Whether the pyramid's sums are weighted; D6 and D7
    were trained without.
    """

    backbone: Scale
    channels: int
    cells: int
    head_repeats: int
    has_weighted_sums: bool


def efficientdet(scale: Scale, *, num_classes: int = COCO_CLASSES) -> Network:
    """Build the network at `scale`: `boxes` (anchors, 4) in pixels and `scores` (anchors, classes).

    Width multiplies the channels of pyramid and heads; depth multiplies the blocks of the backbone. The
    backbone's width and the repeats of pyramid and heads are interpolated between the released members.

    Raises:
        DeployError: The input is too small for seven halvings.
    """
    if scale.side_px < _MIN_SIDE_PX:
        raise DeployError(
            f"EfficientDet halves its input seven times, so a side of {scale.side_px} px is too small.",
            code="invalid-side",
            fix=f"add --side {_MIN_SIDE_PX} or more, preferably a multiple of {_MIN_SIDE_PX}",
        )
    sizes = _sizes(scale)
    net = NetworkBuilder(scale.side_px)
    ends = add_stages(net, efficientnet.EFFICIENTNET_BASELINE, sizes.backbone, prefix="backbone.")
    pyramid = _add_pyramid(net, [ends[stage] for stage in _FINEST_STAGES], sizes.channels)
    for cell in range(sizes.cells):
        pyramid = _add_bifpn_cell(net, f"fpn.cell.{cell}", pyramid, sizes)
    anchors = Anchors(
        side_px=scale.side_px,
        map_sides=tuple(map(net.map_side, pyramid)),
        scale=_ANCHOR_SCALES.get(scale, 4.0),
    )
    _add_head(net, "class_net", pyramid, sizes, anchors, values=num_classes)
    scores = net.activation("sigmoid")
    _add_head(net, "box_net", pyramid, sizes, anchors, values=4)
    boxes = net.decode_boxes("box_net.boxes", anchors)
    return net.network(NAME, {"boxes": boxes, "scores": scores}, rank=2)


def _sizes(scale: Scale) -> _Sizes:
    widths, depths = [each.width for each in _LADDER[:-1]], [each.depth for each in _LADDER[:-1]]
    backbone_width = _interpolate(scale.width, widths, [each.backbone_width for each in _RELEASED])
    cells = _interpolate(scale.depth, depths, [each.fpn_cells for each in _RELEASED])
    repeats = _interpolate(scale.depth, depths, [each.head_repeats for each in _RELEASED])
    return _Sizes(
        backbone=Scale(width=backbone_width, depth=scale.depth, side_px=scale.side_px),
        channels=round_channels(_BASE_CHANNELS * scale.width),
        cells=math.ceil(round(cells, 6)),
        head_repeats=math.floor(max(round(repeats, 6), 1)),
        has_weighted_sums=scale.width < _D6.width,
    )


def _interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return y at x: proportional below the table, log-linear in it, extrapolated above it."""
    if x <= xs[0]:
        return ys[0] * x / xs[0]
    at = min(bisect_right(xs, x), len(xs) - 1)
    part = math.log(x / xs[at - 1]) / math.log(xs[at] / xs[at - 1])
    return float(ys[at - 1] * (ys[at] / ys[at - 1]) ** part)


def _add_pyramid(net: NetworkBuilder, finest: list[str], channels: int) -> tuple[str, ...]:
    """Return P3 to P7; the two coarsest are the backbone's last map, downsampled."""
    net.block = "fpn.resample.3"
    coarse = _match_channels(net, net.block, finest[-1], channels)
    sixth = net.max_pool("fpn.resample.3.downsample", kernel=3, stride=2, x=coarse)
    net.block = "fpn.resample.4"
    return (*finest, sixth, net.max_pool("fpn.resample.4.downsample", kernel=3, stride=2))


def _match_channels(net: NetworkBuilder, prefix: str, x: str, channels: int) -> str:
    """Append a 1x1 convolution if the number of channels differs."""
    if net.channels(x) == channels:
        return x
    return net.conv(
        f"{prefix}.conv.conv", channels, x=x, norm=f"{prefix}.conv.bn", norm_epsilon=_NORM_EPSILON
    )


def _add_bifpn_cell(net: NetworkBuilder, cell: str, pyramid: Sequence[str], sizes: _Sizes) -> tuple[str, ...]:
    """Append one BiFPN cell: a pass from the coarsest level to the finest, and one back.

    References:
        arXiv:1911.09070, section 3.2 and Figure 3.
    """
    maps = [*pyramid]
    maps_of_level = [[level] for level in range(LEVELS)]  # indices into maps
    down = [(level, level + 1) for level in reversed(range(LEVELS - 1))]
    up = [(level, level - 1) for level in range(1, LEVELS)]
    for at, (level, neighbour) in enumerate([*down, *up]):
        reads = (*maps_of_level[level], maps_of_level[neighbour][-1])
        side = net.map_side(pyramid[level])
        maps_of_level[level].append(len(maps))
        maps.append(
            _add_fusion_node(net, f"{cell}.fnode.{at}", {index: maps[index] for index in reads}, side, sizes)
        )
    return tuple(maps[indices[-1]] for indices in maps_of_level)


def _add_fusion_node(
    net: NetworkBuilder, node: str, reads: Mapping[int, str], side: int, sizes: _Sizes
) -> str:
    """Append a fusion node: resample its inputs to one size, add and convolve them.

    Args:
        reads: Its inputs by their index among the cell's maps.
    """
    net.block = node
    resampled = tuple(
        _resample(net, f"{node}.combine.resample.{index}", x, side, sizes.channels)
        for index, x in reads.items()
    )
    weights = f"{node}.combine.edge_weights" if sizes.has_weighted_sums else None
    net.weighted_sum(f"{node}.combine", resampled, weights=weights)
    net.activation(_ACTIVATION)
    after = f"{node}.after_combine.conv"
    return _add_separable(net, after, after, sizes.channels, norm=f"{after}.bn")


def _resample(net: NetworkBuilder, prefix: str, x: str, side: int, channels: int) -> str:
    """Append what brings a map to the given channels and side."""
    x = _match_channels(net, prefix, x, channels)
    if net.map_side(x) > side:
        return net.max_pool(f"{prefix}.downsample", kernel=3, stride=2, x=x)
    return net.upsample(f"{prefix}.upsample", x, side) if net.map_side(x) < side else x


def _add_head(
    net: NetworkBuilder, head: str, pyramid: Sequence[str], sizes: _Sizes, anchors: Anchors, *, values: int
) -> str:
    """Append a head that predicts `values` numbers per anchor on every level."""
    levels = []
    for level, x in enumerate(pyramid):
        net.block = layer_prefix = f"{head}.{level}"
        latest = x
        for repeat in range(sizes.head_repeats):
            name, norm = f"conv_rep.{repeat}", f"{head}.bn_rep.{repeat}.{level}.bn"
            _add_separable(
                net, f"{layer_prefix}.{name}", f"{head}.{name}", sizes.channels, x=latest, norm=norm
            )
            latest = net.activation(_ACTIVATION)
        _add_separable(
            net, f"{layer_prefix}.predict", f"{head}.predict", anchors.per_location * values, x=latest
        )
        levels.append(net.per_anchor(f"{layer_prefix}.anchors", values))
    net.block = head
    return net.concat(f"{head}.anchors", tuple(levels))


def _add_separable(
    net: NetworkBuilder,
    layer_prefix: str,
    parameter_prefix: str,
    channels: int,
    *,
    x: str | None = None,
    norm: str | None = None,
) -> str:
    """Append a depthwise and a pointwise convolution.

    Args:
        layer_prefix: Prefix of the layers' names.
        parameter_prefix: Prefix of their parameters, which may be shared.
    """
    x = x or net.latest
    net.conv(
        f"{layer_prefix}.conv_dw",
        net.channels(x),
        x=x,
        kernel=3,
        groups=net.channels(x),
        has_bias=False,
        shared=f"{parameter_prefix}.conv_dw",
    )
    return net.conv(
        f"{layer_prefix}.conv_pw",
        channels,
        norm=norm,
        norm_epsilon=_NORM_EPSILON,
        shared=f"{parameter_prefix}.conv_pw",
    )


FAMILY = Family(
    name=NAME,
    title="EfficientDet",
    build=lambda scale, classes: efficientdet(scale, num_classes=classes),
    ladder=_LADDER,
    members={f"d{phi}": scale for phi, scale in enumerate(_LADDER)},
    source="Tan et al. 2020, arXiv:1911.09070",
    metric="AP",
    accuracy=published_accuracies(
        {scale: each.ap_percent for scale, each in zip(_LADDER, _RELEASED, strict=True)},
        f"{_SOURCE}/README.md, COCO test-dev2017",
    ),
    num_classes=COCO_CLASSES,
)
