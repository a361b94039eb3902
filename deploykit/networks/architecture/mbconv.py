"""Networks of inverted residuals, with timm's parameter names: EfficientNet, Lite, V2 and MobileNetV2.

References:
    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.
    Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507.
    Gupta and Tan, "EfficientNet-EdgeTPU", ai.googleblog.com 2019: the fused block.
    Parameter names: timm, timm/models/_efficientnet_blocks.py.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from deploykit.networks.architecture.builder import NetworkBuilder, round_channels
from deploykit.networks.architecture.network import ActivationKind, Network
from deploykit.networks.scaling import Scale

BlockKind = Literal["inverted", "fused", "plain"]
_SQUEEZE_RATIO = 0.25  # of the block's input channels; arXiv:1905.11946, section 4, and arXiv:1807.11626


class Stage(NamedTuple):
    """Blocks of one resolution; the first has the stride.

    kind: `inverted` expands with a 1x1 convolution followed by a depthwise one, `fused` does both in one
    convolution, and `plain` is a single convolution.
    """

    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int
    kind: BlockKind = "inverted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A network before it is scaled.

    Attributes:
        stem_channels: Channels of the first convolution.
        stages: Its stages.
        head_channels: Channels of the last convolution.
        activation: The activation function.
        has_squeeze_excite: Whether its inverted blocks have squeeze-excite.
        min_head_channels: The head has at least this many channels at any width.
        scales_stem_and_head: Whether stem, head, and the repeats of the first and last stage are scaled too.
        min_rounding_ratio: A rounded number of channels is at least this fraction of the unrounded one.
    """

    stem_channels: int
    stages: tuple[Stage, ...]
    head_channels: int
    activation: ActivationKind
    has_squeeze_excite: bool = True
    min_head_channels: int = 0
    scales_stem_and_head: bool = True
    min_rounding_ratio: float = 0.9

    def scale_channels(self, channels: int, width: float) -> int:
        """Return the number of channels of a stage at `width` times the baseline's."""
        return round_channels(channels * width, min_ratio=self.min_rounding_ratio)

    def scale_end_channels(self, channels: int, width: float) -> int:
        """Return the number of channels of stem or head at `width` times the baseline's."""
        return self.scale_channels(channels, width) if self.scales_stem_and_head else channels

    def scale_repeats(self, index: int, depth: float) -> int:
        """Return the number of blocks of a stage at `depth` times the baseline's."""
        is_fixed = not self.scales_stem_and_head and index in (0, len(self.stages) - 1)
        return self.stages[index].repeats if is_fixed else math.ceil(self.stages[index].repeats * depth)


def build_mbconv_network(family: str, baseline: Baseline, scale: Scale, num_classes: int) -> Network:
    """Build the baseline at `scale`; its input is RGB, `scale.side_px` square."""
    net = NetworkBuilder(scale.side_px)
    add_stages(net, baseline, scale)
    net.block = "head"
    head = max(baseline.scale_end_channels(baseline.head_channels, scale.width), baseline.min_head_channels)
    net.conv("conv_head", head, norm="bn2")
    net.activation(baseline.activation)
    net.global_average_pool("global_pool")
    net.linear("classifier", num_classes)
    return net.network(family)


def add_stages(net: NetworkBuilder, baseline: Baseline, scale: Scale, *, prefix: str = "") -> tuple[str, ...]:
    """Append stem and stages, and return the last layer of each stage.

    Args:
        net: The network to append to.
        baseline: The network before scaling.
        scale: How far to scale it.
        prefix: Prefix of every name.
    """
    net.block = f"{prefix}stem"
    stem = baseline.scale_end_channels(baseline.stem_channels, scale.width)
    net.conv(f"{prefix}conv_stem", stem, kernel=3, stride=2, norm=f"{prefix}bn1")
    net.activation(baseline.activation)
    ends: list[str] = []
    for index, stage in enumerate(baseline.stages):
        channels = baseline.scale_channels(stage.channels, scale.width)
        for repeat in range(baseline.scale_repeats(index, scale.depth)):
            scaled = stage._replace(channels=channels, stride=stage.stride if repeat == 0 else 1)
            _add_block(net, f"{prefix}blocks.{index}.{repeat}", scaled, baseline)
        ends.append(net.latest)
    return tuple(ends)


def _add_block(net: NetworkBuilder, block: str, stage: Stage, baseline: Baseline) -> None:
    """Append a block, with a residual sum if input and output have the same shape."""
    net.block = block
    shortcut = net.latest
    in_channels = net.channels(shortcut)
    add = {"inverted": _add_inverted, "fused": _add_fused, "plain": _add_plain}[stage.kind]
    last = add(net, block, stage, baseline)
    if stage.stride == 1 and in_channels == stage.channels:
        net.add(f"{block}.add", last, shortcut)


def _add_inverted(net: NetworkBuilder, block: str, stage: Stage, baseline: Baseline) -> str:
    """Append expansion, depthwise convolution, squeeze-excite, and projection without activation."""
    in_channels = net.channels(net.latest)
    expanded = in_channels * stage.expansion
    norms = iter((f"{block}.bn1", f"{block}.bn2", f"{block}.bn3"))
    if stage.expansion > 1:
        net.conv(f"{block}.conv_pw", expanded, norm=next(norms))
        net.activation(baseline.activation)
    net.conv(
        f"{block}.conv_dw",
        expanded,
        kernel=stage.kernel,
        stride=stage.stride,
        groups=expanded,
        norm=next(norms),
    )
    net.activation(baseline.activation)
    if baseline.has_squeeze_excite:
        _add_squeeze_excite(net, f"{block}.se", round(in_channels * _SQUEEZE_RATIO), baseline.activation)
    # timm calls the projection conv_pwl, or conv_pw if no expansion precedes it.
    project = f"{block}.conv_pwl" if stage.expansion > 1 else f"{block}.conv_pw"
    return net.conv(project, stage.channels, norm=next(norms))


def _add_fused(net: NetworkBuilder, block: str, stage: Stage, baseline: Baseline) -> str:
    """Append an expanding convolution, and projection without activation."""
    net.conv(
        f"{block}.conv_exp",
        net.channels(net.latest) * stage.expansion,
        kernel=stage.kernel,
        stride=stage.stride,
        norm=f"{block}.bn1",
    )
    net.activation(baseline.activation)
    return net.conv(f"{block}.conv_pwl", stage.channels, norm=f"{block}.bn2")


def _add_plain(net: NetworkBuilder, block: str, stage: Stage, baseline: Baseline) -> str:
    """Append one convolution with its activation."""
    net.conv(f"{block}.conv", stage.channels, kernel=stage.kernel, stride=stage.stride, norm=f"{block}.bn1")
    return net.activation(baseline.activation)


def _add_squeeze_excite(net: NetworkBuilder, prefix: str, squeezed: int, activation: ActivationKind) -> None:
    """Append a gate per channel, computed from the channel means."""
    x = net.latest
    net.global_average_pool(f"{prefix}.pool")
    net.conv(f"{prefix}.conv_reduce", squeezed)
    net.activation(activation)
    net.conv(f"{prefix}.conv_expand", net.channels(x))
    factors = net.activation("sigmoid")
    net.channel_scale(f"{prefix}.scale", x, factors)
