"""Builds a Network layer by layer, inferring shapes; a family is a function that drives it."""

from collections.abc import Mapping

from deploykit.networks.architecture.anchors import Anchors
from deploykit.networks.architecture.network import (
    INPUT,
    Activation,
    ActivationKind,
    Add,
    ChannelScale,
    Concat,
    Convolution,
    DecodeBoxes,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
    Output,
    PerAnchor,
    Shape,
    Upsample,
    WeightedSum,
)
from deploykit.util.errors import DeployError


def round_channels(channels: float, *, divisor: int = 8, least: float = 0.9) -> int:
    """Nearest multiple of divisor, never under `least` of what was asked.

    References:
        arXiv:1905.11946 as implemented in tensorflow/tpu, efficientnet_builder.py, round_filters.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < least * channels else rounded


class NetworkBuilder:
    """Each method appends a layer that reads `x` (the latest by default) and returns its name.

    Layers join the block set last with `block`.
    """

    def __init__(self, side_px: int) -> None:
        self.input: Shape = (3, side_px, side_px)
        self.block = ""
        self._layers: list[Layer] = []
        self._shapes: dict[str, Shape] = {INPUT: self.input}

    @property
    def latest(self) -> str:
        return self._layers[-1].name if self._layers else INPUT

    def channels(self, x: str) -> int:
        return self._shapes[x][0]

    def map_side(self, x: str) -> int:
        return self._shapes[x][1]

    def conv(
        self,
        name: str,
        channels: int,
        *,
        x: str | None = None,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: str | None = None,
        norm_epsilon: float | None = None,
        has_bias: bool = True,
        shared: str | None = None,
    ) -> str:
        x = x or self.latest
        in_channels, height, width = self._shapes[x]
        return self._append(
            Convolution(
                name=name,
                block=self.block,
                inputs=(x,),
                output=(channels, -(-height // stride), -(-width // stride)),
                in_channels=in_channels,
                kernel=kernel,
                stride=stride,
                groups=groups,
                norm=norm,
                padding=_centred(kernel),
                has_bias=has_bias,
                shared=shared,
                norm_epsilon=norm_epsilon,
            )
        )

    def activation(self, kind: ActivationKind) -> str:
        x = self.latest
        return self._append(
            Activation(name=f"{x}.{kind}", block=self.block, inputs=(x,), output=self._shapes[x], kind=kind)
        )

    def max_pool(self, name: str, *, kernel: int, stride: int, x: str | None = None) -> str:
        x = x or self.latest
        channels, height, width = self._shapes[x]
        output = (channels, -(-height // stride), -(-width // stride))
        return self._append(
            MaxPool(
                name=name,
                block=self.block,
                inputs=(x,),
                output=output,
                kernel=kernel,
                stride=stride,
                padding=_centred(kernel),
            )
        )

    def global_average_pool(self, name: str) -> str:
        x = self.latest
        return self._append(
            GlobalAveragePool(name=name, block=self.block, inputs=(x,), output=(self.channels(x), 1, 1))
        )

    def add(self, name: str, x: str, shortcut: str) -> str:
        return self._append(Add(name=name, block=self.block, inputs=(x, shortcut), output=self._shapes[x]))

    def channel_scale(self, name: str, x: str, factors: str) -> str:
        return self._append(
            ChannelScale(name=name, block=self.block, inputs=(x, factors), output=self._shapes[x])
        )

    def linear(self, name: str, features: int) -> str:
        x = self.latest
        _, height, width = self._shapes[x]
        if (height, width) != (1, 1):
            raise DeployError(
                f"{name} reads {x}, a map of {height} x {width}, and takes one number a channel.",
                code="family-file-invalid",
                fix="pool before it: net.global_average_pool('pool')",
            )
        return self._append(
            Linear(
                name=name,
                block=self.block,
                inputs=(x,),
                output=(features, 1, 1),
                in_features=self.channels(x),
            )
        )

    def upsample(self, name: str, x: str, side: int) -> str:
        """To a map of that side, which is twice as large, or one less."""
        output = (self.channels(x), side, side)
        return self._append(Upsample(name=name, block=self.block, inputs=(x,), output=output))

    def weighted_sum(self, name: str, inputs: tuple[str, ...], *, weights: str | None) -> str:
        output = self._shapes[inputs[0]]
        return self._append(
            WeightedSum(name=name, block=self.block, inputs=inputs, output=output, weights=weights)
        )

    def per_anchor(self, name: str, values: int) -> str:
        """So many values of each anchor, of a map that has them one after another."""
        x = self.latest
        channels, height, width = self._shapes[x]
        output = (channels // values * height * width, values, 1)
        return self._append(PerAnchor(name=name, block=self.block, inputs=(x,), output=output))

    def concat(self, name: str, inputs: tuple[str, ...]) -> str:
        _, *others = self._shapes[inputs[0]]
        output = (sum(self._shapes[x][0] for x in inputs), others[0], others[1])
        return self._append(Concat(name=name, block=self.block, inputs=inputs, output=output))

    def decode_boxes(self, name: str, anchors: Anchors) -> str:
        x = self.latest
        return self._append(
            DecodeBoxes(name=name, block=self.block, inputs=(x,), output=self._shapes[x], anchors=anchors)
        )

    def network(self, family: str, outputs: Mapping[str, str] | None = None, *, rank: int = 1) -> Network:
        """What was built.

        Args:
            outputs: the layer that makes each; default the latest one, which makes logits.
            rank: of an output's tensor of one image: 1 for (classes,), 2 for (anchors, values).
        """
        named = tuple(Output(name=name, layer=layer, rank=rank) for name, layer in (outputs or {}).items())
        return Network(family=family, input=self.input, layers=tuple(self._layers), outputs=named)

    def _append(self, layer: Layer) -> str:
        self._layers.append(layer)
        self._shapes[layer.name] = layer.output
        return layer.name


def _centred(kernel: int) -> tuple[int, int]:
    """As PyTorch's networks are padded."""
    return ((kernel - 1) // 2,) * 2
