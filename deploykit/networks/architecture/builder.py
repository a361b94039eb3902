"""The builder that families use: it assembles a Network layer by layer and infers shapes."""

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


def round_channels(channels: float, *, divisor: int = 8, min_ratio: float = 0.9) -> int:
    """Round to the nearest multiple of divisor that is at least min_ratio of the given number.

    References:
        arXiv:1905.11946 as implemented in tensorflow/tpu, efficientnet_builder.py, round_filters.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < min_ratio * channels else rounded


class NetworkBuilder:
    """Builds a Network; each layer method appends a layer that reads `x`, by default the latest one.

    These methods return the layer's name. New layers belong to the block named by the attribute `block`.

    Args:
        side_px: Side of the square RGB input, pixels.
    """

    def __init__(self, side_px: int) -> None:
        self.input: Shape = (3, side_px, side_px)
        self.block = ""
        self._layers: list[Layer] = []
        self._shapes: dict[str, Shape] = {INPUT: self.input}

    @property
    def latest(self) -> str:
        """Name of the latest layer."""
        return self._layers[-1].name if self._layers else INPUT

    def channels(self, x: str) -> int:
        """Return the number of channels of a layer's output."""
        return self._shapes[x][0]

    def map_side(self, x: str) -> int:
        """Return the height of a layer's output, which is square."""
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
        """Append a convolution, padded as in PyTorch's networks; see network.Convolution."""
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
                padding=_symmetric_padding(kernel),
                has_bias=has_bias,
                shared=shared,
                norm_epsilon=norm_epsilon,
            )
        )

    def activation(self, kind: ActivationKind) -> str:
        """Append an activation function."""
        x = self.latest
        return self._append(
            Activation(name=f"{x}.{kind}", block=self.block, inputs=(x,), output=self._shapes[x], kind=kind)
        )

    def max_pool(self, name: str, *, kernel: int, stride: int, x: str | None = None) -> str:
        """Append max pooling."""
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
                padding=_symmetric_padding(kernel),
            )
        )

    def global_average_pool(self, name: str) -> str:
        """Append the mean over height and width, which gives (channels, 1, 1)."""
        x = self.latest
        return self._append(
            GlobalAveragePool(name=name, block=self.block, inputs=(x,), output=(self.channels(x), 1, 1))
        )

    def add(self, name: str, x: str, shortcut: str) -> str:
        """Append a residual sum."""
        return self._append(Add(name=name, block=self.block, inputs=(x, shortcut), output=self._shapes[x]))

    def channel_scale(self, name: str, x: str, factors: str) -> str:
        """Append a multiplication by one factor per channel, as squeeze-excite needs."""
        return self._append(
            ChannelScale(name=name, block=self.block, inputs=(x, factors), output=self._shapes[x])
        )

    def linear(self, name: str, features: int) -> str:
        """Append a fully connected layer with a bias.

        Raises:
            DeployError: The latest layer's output is not (channels, 1, 1).
        """
        x = self.latest
        _, height, width = self._shapes[x]
        if (height, width) != (1, 1):
            raise DeployError(
                f"The linear layer {name} needs one value per channel, but {x} is a {height} x {width} map.",
                code="family-file-invalid",
                fix="call net.global_average_pool('pool') before it",
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
        """Append upsampling by two to a map of the given side, twice the input's or one less."""
        output = (self.channels(x), side, side)
        return self._append(Upsample(name=name, block=self.block, inputs=(x,), output=output))

    def weighted_sum(self, name: str, inputs: tuple[str, ...], *, weights: str | None) -> str:
        """Append a weighted sum; see network.WeightedSum."""
        output = self._shapes[inputs[0]]
        return self._append(
            WeightedSum(name=name, block=self.block, inputs=inputs, output=output, weights=weights)
        )

    def per_anchor(self, name: str, values: int) -> str:
        """Append a reshape that gives each anchor its row of `values` numbers."""
        x = self.latest
        channels, height, width = self._shapes[x]
        output = (channels // values * height * width, values, 1)
        return self._append(PerAnchor(name=name, block=self.block, inputs=(x,), output=output))

    def concat(self, name: str, inputs: tuple[str, ...]) -> str:
        """Append a concatenation along the first axis."""
        _, *others = self._shapes[inputs[0]]
        output = (sum(self._shapes[x][0] for x in inputs), others[0], others[1])
        return self._append(Concat(name=name, block=self.block, inputs=inputs, output=output))

    def decode_boxes(self, name: str, anchors: Anchors) -> str:
        """Append the decoding of predicted offsets to boxes."""
        x = self.latest
        return self._append(
            DecodeBoxes(name=name, block=self.block, inputs=(x,), output=self._shapes[x], anchors=anchors)
        )

    def network(self, family: str, outputs: Mapping[str, str] | None = None, *, rank: int = 1) -> Network:
        """Return the finished network.

        Args:
            family: Name of its family.
            outputs: The layer of each output; default `logits` from the latest layer.
            rank: Rank of an output for one image: 1 for (classes,), 2 for (anchors, values).
        """
        named = tuple(Output(name=name, layer=layer, rank=rank) for name, layer in (outputs or {}).items())
        return Network(family=family, input=self.input, layers=tuple(self._layers), outputs=named)

    def _append(self, layer: Layer) -> str:
        self._layers.append(layer)
        self._shapes[layer.name] = layer.output
        return layer.name


def _symmetric_padding(kernel: int) -> tuple[int, int]:
    """Return the padding before and after, as PyTorch's networks have it."""
    return ((kernel - 1) // 2,) * 2
