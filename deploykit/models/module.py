"""Network -> torch.nn.Module, with timm's parameter names."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deploykit.architecture.graph import (
    INPUT,
    Activation,
    Add,
    ChannelScale,
    Convolution,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
)
from deploykit.models.weights import Weights

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "relu": nn.functional.relu,
    "relu6": nn.functional.relu6,
}


class NetworkModule(nn.Module):
    """Runs a Network: (batch, 3, side, side) float32 -> (batch, classes) logits."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for layer in network.layers:
            if isinstance(layer, Convolution):
                _place(self, layer.name, _conv2d(layer))
                if layer.norm is not None:
                    _place(self, layer.norm, nn.BatchNorm2d(layer.output[0], eps=network.norm_epsilon))
            elif isinstance(layer, Linear):
                _place(self, layer.name, nn.Linear(layer.in_features, layer.output[0]))

    def forward(self, images: Tensor) -> Tensor:
        readers = Counter(name for layer in self.network.layers for name in layer.inputs)
        values = {INPUT: images}
        for layer in self.network.layers:
            values[layer.name] = self._value(layer, [values[name] for name in layer.inputs])
            for name in layer.inputs:  # frees what no later layer reads
                readers[name] -= 1
                if not readers[name]:
                    del values[name]
        return values[self.network.layers[-1].name]

    def _value(self, layer: Layer, inputs: list[Tensor]) -> Any:  # torch types no module's call
        x = inputs[0]
        match layer:
            case Convolution():
                y = self.get_submodule(layer.name)(_padded(x, layer.padding, 0.0))
                return y if layer.norm is None else self.get_submodule(layer.norm)(y)
            case Linear():
                return self.get_submodule(layer.name)(x.flatten(1))
            case Activation():
                return _ACTIVATIONS[layer.kind](x)
            case MaxPool():
                return torch.max_pool2d(_padded(x, layer.padding, -math.inf), layer.kernel, layer.stride)
            case GlobalAveragePool():
                return x.mean((2, 3), keepdim=True)
            case Add():
                return x + inputs[1]
            case ChannelScale():
                return x * inputs[1]
        raise NotImplementedError(type(layer).__name__)


def module_for(network: Network, weights: Weights) -> NetworkModule:
    """The network with these weights, ready for inference."""
    with torch.device("meta"):
        module = NetworkModule(network)
    state = {name: torch.from_numpy(array) for name, array in weights.state.items()}
    counters = {name: torch.tensor(0) for name in module.state_dict() if name.endswith("num_batches_tracked")}
    module.load_state_dict({**state, **counters}, assign=True)
    return module.eval()


def _padded(x: Tensor, padding: tuple[int, int], value: float) -> Tensor:
    """With so much before and after each row and column."""
    return nn.functional.pad(x, 2 * padding, value=value)


def _conv2d(layer: Convolution) -> nn.Conv2d:
    return nn.Conv2d(
        layer.in_channels,
        layer.output[0],
        layer.kernel,
        layer.stride,
        groups=layer.groups,
        bias=layer.norm is None,
    )


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Registers module at a dotted path, making plain containers on the way."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)
