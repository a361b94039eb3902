"""A network as data: layers in execution order, each with its shape, parameters and work.

This is the one source of truth for a model's shape. The nn.Module, the ONNX graph and the cost
model are three readers of it, so anything expressed here can be exported, compiled and predicted.
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
"""Channels, height, width of one image's feature map; (features, 1, 1) after pooling, and (anchors,
values, 1) where anchors have values of their own."""

ActivationKind = Literal["silu", "sigmoid", "relu", "relu6"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operation.

    Attributes:
        name: unique; for a layer with parameters of its own, their prefix in timm's state dict.
        block: the building block it belongs to, as reports and sensitivity name it.
        inputs: names of the layers (or INPUT) it reads.
        output: shape it makes.
    """

    name: str
    block: str
    inputs: tuple[str, ...]
    output: Shape

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Trained tensors, by full name, with their shapes."""
        return {}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers, one image."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Layer):
    """A 2-d convolution of a square map, with zero padding so that only its stride makes that smaller.

    Attributes:
        norm: prefix of the batch norm that follows it; None where it has a bias instead, or nothing.
        padding: zeros before and after each row and column.
        has_bias: whether a bias follows, where no norm does.
        shared: prefix of parameters that several layers have in common; None for parameters of its own.
        norm_epsilon: what its norm adds to the variance; None for the network's.
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
        """Of its weight and bias in the state."""
        return self.shared or self.name

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.output[0], self.in_channels // self.groups, self.kernel, self.kernel)

    @property
    def is_pointwise(self) -> bool:
        return self.kernel == 1 and self.groups == 1

    @property
    def is_depthwise(self) -> bool:
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
        return (self.output[0], self.in_features)

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        return {f"{self.name}.weight": self.weight_shape, f"{self.name}.bias": self.output[:1]}

    @property
    def macs(self) -> int:
        return math.prod(self.weight_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Layer):
    kind: ActivationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool(Layer):
    """Attributes: padding: before and after each row and column, of values below all others."""

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
    """Multiplies a feature map (first input) by one factor a channel (second input)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsample(Layer):
    """Every value twice in height and width; an odd output lacks the last row and column of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedSum(Layer):
    """Sum of equal shapes, each times its weight: fast normalized fusion.

    Attributes:
        weights: full name of what is trained, a number an input, of which negative ones count as 0; None
            where all count as 1, and nothing is normalized.

    References:
        Tan et al., arXiv:1911.09070, section 3.3.
    """

    weights: str | None

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        return {} if self.weights is None else {self.weights: (len(self.inputs),)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PerAnchor(Layer):
    """A map with the values of each place's anchors one after another, as (anchors, values, 1).

    Anchors are counted along a row first, then down the rows, those of a place together.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat(Layer):
    """All the anchors of several layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBoxes(Layer):
    """What was predicted of anchors, (anchors, 4: y, x, height, width), as boxes.

    These are (anchors, 4: left, top, right, bottom), pixels of the input; in FP32 whatever the rest is in,
    since FP16's numbers from 1024 on are whole.
    """

    anchors: Anchors


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Attributes: name: what users know it by; layer: the one that makes it; rank: of one image's tensor."""

    name: str
    layer: str
    rank: int = 1


@dataclass(frozen=True, kw_only=True)
class Network:
    """A whole model.

    Attributes:
        family: `efficientnet`, `resnet`, ...
        input: shape of one image.
        layers: in execution order.
        outputs: what it answers, the scores of the classes last; () for the last layer's logits.
        norm_epsilon: what batch norms add to the variance; PyTorch's default.
        same_padding: whether all padding is TensorFlow's SAME; that of the layers is so for this input alone.
    """

    family: str
    input: Shape
    layers: tuple[Layer, ...]
    outputs: tuple[Output, ...] = ()
    norm_epsilon: float = 1e-5
    same_padding: bool = False

    @property
    def side_px(self) -> int:
        return self.input[1]

    @property
    def named_outputs(self) -> tuple[Output, ...]:
        """The outputs, one at least."""
        return self.outputs or (Output(name=LOGITS, layer=self.layers[-1].name),)

    @property
    def output_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of each output by name, one image's: (classes,), (anchors, 4), ..."""
        return {each.name: self.shapes[each.layer][: each.rank] for each in self.named_outputs}

    @property
    def num_classes(self) -> int:
        return self.output_shapes[self.named_outputs[-1].name][-1]

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of every tensor, by the name of the layer that makes it."""
        return {INPUT: self.input} | {layer.name: layer.output for layer in self.layers}

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, Convolution))

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Trained tensors by name; batch-norm statistics are not among them."""
        return {name: shape for layer in self.layers for name, shape in layer.parameters.items()}

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Trained tensors and batch-norm statistics by name: what a checkpoint holds."""
        statistics = {
            f"{conv.norm}.{part}": conv.output[:1]
            for conv in self.convolutions
            if conv.norm is not None
            for part in ("running_mean", "running_var")
        }
        return {**self.parameters, **statistics}

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers, one image."""
        return sum(layer.macs for layer in self.layers)
