"""Networks of inverted residuals: EfficientNet, its Lite and V2, MobileNetV2. With timm's parameter names.

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
_SQUEEZE_RATIO = 0.25  # of a block's input channels; arXiv:1905.11946, section 4, and arXiv:1807.11626


class Stage(NamedTuple):
    """Blocks of one resolution; the first of them has the stride.

    kind: `inverted` expands with a 1x1 convolution and goes on depthwise; `fused` does both in one
    convolution; `plain` is one convolution.
    """

    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int
    kind: BlockKind = "inverted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A network before it is stretched.

    Attributes:
        squeezes: its inverted blocks have squeeze-excite.
        least_head: channels that the head keeps however narrow the rest.
        scales_ends: whether stem, head, and the repeats of the first and last stage are stretched too.
        least_rounded: a rounded number of channels is at least so much of what was asked.
    """

    stem: int
    stages: tuple[Stage, ...]
    head: int
    activation: ActivationKind
    squeezes: bool = True
    least_head: int = 0
    scales_ends: bool = True
    least_rounded: float = 0.9

    def channels(self, unstretched: int, width: float) -> int:
        return round_channels(unstretched * width, least=self.least_rounded)

    def ends_channels(self, unstretched: int, width: float) -> int:
        return self.channels(unstretched, width) if self.scales_ends else unstretched

    def repeats(self, at: int, depth: float) -> int:
        """Of the stage at that place."""
        fixed = not self.scales_ends and at in (0, len(self.stages) - 1)
        return self.stages[at].repeats if fixed else math.ceil(self.stages[at].repeats * depth)


def mbconv_network(family: str, baseline: Baseline, scale: Scale, num_classes: int) -> Network:
    """The baseline at `scale`; its input is `scale.side_px` square, RGB."""
    net = NetworkBuilder(scale.side_px)
    add_stages(net, baseline, scale)
    net.block = "head"
    head = max(baseline.ends_channels(baseline.head, scale.width), baseline.least_head)
    net.conv("conv_head", head, norm="bn2")
    net.activation(baseline.activation)
    net.global_average_pool("global_pool")
    net.linear("classifier", num_classes)
    return net.network(family)


def add_stages(net: NetworkBuilder, baseline: Baseline, scale: Scale, *, prefix: str = "") -> tuple[str, ...]:
    """Stem and stages; the last layer of each stage.

    Args:
        prefix: of every name.
    """
    net.block = f"{prefix}stem"
    stem = baseline.ends_channels(baseline.stem, scale.width)
    net.conv(f"{prefix}conv_stem", stem, kernel=3, stride=2, norm=f"{prefix}bn1")
    net.activation(baseline.activation)
    ends: list[str] = []
    for at, stage in enumerate(baseline.stages):
        channels = baseline.channels(stage.channels, scale.width)
        for repeat in range(baseline.repeats(at, scale.depth)):
            stretched = stage._replace(channels=channels, stride=stage.stride if repeat == 0 else 1)
            _add_block(net, f"{prefix}blocks.{at}.{repeat}", stretched, baseline)
        ends.append(net.latest)
    return tuple(ends)


def _add_block(net: NetworkBuilder, block: str, stage: Stage, baseline: Baseline) -> None:
    """Its convolutions, and the residual sum where shapes allow it."""
    net.block = block
    shortcut = net.latest
    in_channels = net.channels(shortcut)
    add = {"inverted": _add_inverted, "fused": _add_fused, "plain": _add_plain}[stage.kind]
    last = add(net, block, stage, baseline)
    if stage.stride == 1 and in_channels == stage.channels:
        net.add(f"{block}.add", last, shortcut)


def _add_inverted(net: NetworkBuilder, block: str, stage: Stage, baseline: Baseline) -> str:
    """Expand, depthwise, squeeze-excite, project without activation."""
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
    if baseline.squeezes:
        _add_squeeze_excite(net, f"{block}.se", round(in_channels * _SQUEEZE_RATIO), baseline.activation)
    # timm calls the projection conv_pwl, except where there is no expansion before it.
    project = f"{block}.conv_pwl" if stage.expansion > 1 else f"{block}.conv_pw"
    return net.conv(project, stage.channels, norm=next(norms))


def _add_fused(net: NetworkBuilder, block: str, stage: Stage, baseline: Baseline) -> str:
    """Expand over a window, project without activation."""
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
    """One convolution, with its activation."""
    net.conv(f"{block}.conv", stage.channels, kernel=stage.kernel, stride=stage.stride, norm=f"{block}.bn1")
    return net.activation(baseline.activation)


def _add_squeeze_excite(net: NetworkBuilder, prefix: str, squeezed: int, activation: ActivationKind) -> None:
    x = net.latest
    net.global_average_pool(f"{prefix}.pool")
    net.conv(f"{prefix}.conv_reduce", squeezed)
    net.activation(activation)
    net.conv(f"{prefix}.conv_expand", net.channels(x))
    factors = net.activation("sigmoid")
    net.channel_scale(f"{prefix}.scale", x, factors)
