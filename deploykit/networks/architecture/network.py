"""A network as data: layers in execution order, each with its shape, parameters and work.

This is the single source of truth for a model's shape. The nn.Module, the ONNX graph and the cost
model all read it, so anything expressed here can be exported, compiled and predicted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from deploykit.networks.architecture.anchors import Anchors

INPUT = "input"
LOGITS = "logits"

Shape = tuple[int, int, int]
"""Channels, height and width of one image's feature map; (features, 1, 1) after pooling, (anchors, values, 1)
for values per anchor."""

ActivationKind = Literal["silu", "sigmoid", "relu", "relu6"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operation.

    Attributes:
        name: Unique; the prefix of its parameters in timm's state dict, unless they are shared.
        block: Building block it belongs to, as reports and `sensitivity` name it.
        inputs: Names of the layers (or INPUT) it reads.
        output: Shape of its output.
    """

    name: str
    block: str
    inputs: tuple[str, ...]
    output: Shape

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of its trained tensors by full name."""
        return {}

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; 0 except for convolutions and linear layers."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Layer):
    """A 2-d convolution of a square map, zero-padded so that only its stride reduces the size.

    Attributes:
        norm: Prefix of the batch norm that follows it; None if a bias or nothing follows.
        padding: Zeros before and after each row and column.
        has_bias: Whether a bias follows if no norm does.
        shared: Prefix of parameters that several layers share; None if the layer has its own.
        norm_epsilon: Epsilon of its batch norm; None for the network's.
    """

    in_channels: int
    kernel: int
    stride: int
    groups: int
    norm: str | None
    padding: tuple[int, int]
    has_bias: bool = True
    shared: str | None = None
    norm_epsilon: float | None = None

    @property
    def prefix(self) -> str:
        """Prefix of its weight and bias in the state dict."""
        return self.shared or self.name

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of its weight: (out, in per group, kernel, kernel)."""
        return (self.output[0], self.in_channels // self.groups, self.kernel, self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether it is 1x1 without groups."""
        return self.kernel == 1 and self.groups == 1

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a separate filter."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        channels = (self.output[0],)
        weight: dict[str, tuple[int, ...]] = {f"{self.prefix}.weight": self.weight_shape}
        if self.norm is not None:
            return weight | {f"{self.norm}.{part}": channels for part in ("weight", "bias")}
        return weight | ({f"{self.prefix}.bias": channels} if self.has_bias else {})

    @property
    def macs(self) -> int:
        _, height, width = self.output
        return math.prod(self.weight_shape) * height * width


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Layer):
    """A fully connected layer with a bias."""

    in_features: int

    @property
    def weight_shape(self) -> tuple[int, int]:
        """Shape of its weight: (out, in)."""
        return (self.output[0], self.in_features)

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        return {f"{self.name}.weight": self.weight_shape, f"{self.name}.bias": self.output[:1]}

    @property
    def macs(self) -> int:
        return math.prod(self.weight_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Layer):
    """An activation function, element by element."""

    kind: ActivationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool(Layer):
    """Max pooling of a square map.

    Attributes:
        padding: Values of minus infinity before and after each row and column.
    """

    kernel: int
    stride: int
    padding: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAveragePool(Layer):
    """Mean over height and width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Layer):
    """Residual sum of two equal shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelScale(Layer):
    """A feature map (first input) multiplied by one factor per channel (second input)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsample(Layer):
    """Nearest-neighbour upsampling by two; an odd output drops the last row and column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedSum(Layer):
    """Weighted sum of inputs of equal shapes: fast normalized fusion.

    Attributes:
        weights: Full name of the trained weights, one per input, with negative ones counted as 0; None for
            a plain sum.

    References:
        Tan et al., arXiv:1911.09070, section 3.3.
    """

    weights: str | None

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        return {} if self.weights is None else {self.weights: (len(self.inputs),)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PerAnchor(Layer):
    """A reshape of a map that holds the values of each location's anchors to (anchors, values, 1).

    Anchors are ordered row by row; those of a location stay together.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat(Layer):
    """A concatenation of the anchors of several layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBoxes(Layer):
    """Boxes from predicted offsets.

    Offsets are (anchors, 4: y, x, height, width), boxes (anchors, 4: left, top, right, bottom) in pixels.
    They are computed in FP32 at every precision, because FP16 has only
    integers from 1024 on.
    """

    anchors: Anchors


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An output of a network.

    Attributes:
        name: Its name in ONNX and engines.
        layer: The layer that computes it.
        rank: Rank of its tensor for one image.
    """

    name: str
    layer: str
    rank: int = 1


@dataclass(frozen=True, kw_only=True)
class Network:
    """A complete network.

    Attributes:
        family: `efficientnet`, `resnet`, ...
        input: Shape of one image.
        layers: Layers in execution order.
        outputs: Outputs, class scores last; () means the last layer's output, as `logits`.
        norm_epsilon: Epsilon of the batch norms; default PyTorch's.
        same_padding: Whether padding is TensorFlow's SAME; the layers hold its values for this input.
    """

    family: str
    input: Shape
    layers: tuple[Layer, ...]
    outputs: tuple[Output, ...] = ()
    norm_epsilon: float = 1e-5
    same_padding: bool = False

    @property
    def side_px(self) -> int:
        """Side of the square input, pixels."""
        return self.input[1]

    @property
    def named_outputs(self) -> tuple[Output, ...]:
        """The outputs, at least one."""
        return self.outputs or (Output(name=LOGITS, layer=self.layers[-1].name),)

    @property
    def output_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each output for one image, by name: (classes,), (anchors, 4), ..."""
        return {each.name: self.shapes[each.layer][: each.rank] for each in self.named_outputs}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.output_shapes[self.named_outputs[-1].name][-1]

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of every layer's output, by the layer's name."""
        return {INPUT: self.input} | {layer.name: layer.output for layer in self.layers}

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """Its convolutions in execution order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Convolution))

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of trained tensors by name, without batch-norm statistics."""
        return {name: shape for layer in self.layers for name, shape in layer.parameters.items()}

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of trained tensors and batch-norm statistics by name, as a checkpoint has them."""
        statistics = {
            f"{conv.norm}.{part}": conv.output[:1]
            for conv in self.convolutions
            if conv.norm is not None
            for part in ("running_mean", "running_var")
        }
        return {**self.parameters, **statistics}

    @property
    def parameter_count(self) -> int:
        """Number of trained values, without batch-norm statistics."""
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers for one image."""
        return sum(layer.macs for layer in self.layers)
