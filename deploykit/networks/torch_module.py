"""The torch.nn.Module of a Network, with timm's parameter names."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deploykit.networks.architecture.anchors import Anchors
from deploykit.networks.architecture.network import (
    INPUT,
    Activation,
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
    PerAnchor,
    Upsample,
    WeightedSum,
)
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.weight_folding import FUSION_EPSILON, norm_epsilon

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "relu": nn.functional.relu,
    "relu6": nn.functional.relu6,
}


class NetworkModule(nn.Module):
    """A Network as a torch module, from (batch, 3, side, side) float32 to (batch, classes) logits.

    A network with several outputs returns them by name.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for layer in network.layers:
            if isinstance(layer, Convolution):
                _add_submodule(
                    self, layer.prefix, _conv2d(layer)
                )  # replaces an equal module if layers share it
                if layer.norm is not None:
                    epsilon = norm_epsilon(layer, network)
                    _add_submodule(self, layer.norm, nn.BatchNorm2d(layer.output[0], eps=epsilon))
            elif isinstance(layer, Linear):
                _add_submodule(self, layer.name, nn.Linear(layer.in_features, layer.output[0]))
            elif isinstance(layer, WeightedSum) and layer.weights is not None:
                parent, name = _parent(self, layer.weights)
                parent.register_parameter(name, nn.Parameter(torch.ones(len(layer.inputs))))

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the output, or outputs by name if there are several."""
        outputs = self.named_outputs(images)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def named_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return every output by name."""
        output_layers = [each.layer for each in self.network.named_outputs]
        readers = Counter([name for layer in self.network.layers for name in layer.inputs] + output_layers)
        values = {INPUT: images}
        for layer in self.network.layers:
            values[layer.name] = self._value(layer, [values[name] for name in layer.inputs])
            for name in layer.inputs:  # free tensors that no later layer reads
                readers[name] -= 1
                if not readers[name]:
                    del values[name]
        return {each.name: values[each.layer] for each in self.network.named_outputs}

    def _value(self, layer: Layer, inputs: list[Tensor]) -> Any:  # torch does not type calls of modules
        x = inputs[0]
        match layer:
            case Convolution():
                y = self.get_submodule(layer.prefix)(_pad(x, layer.padding, 0.0))
                return y if layer.norm is None else self.get_submodule(layer.norm)(y)
            case Linear():
                return self.get_submodule(layer.name)(x.flatten(1))
            case Activation():
                return _ACTIVATIONS[layer.kind](x)
            case MaxPool():
                return torch.max_pool2d(_pad(x, layer.padding, -math.inf), layer.kernel, layer.stride)
            case GlobalAveragePool():
                return x.mean((2, 3), keepdim=True)
            case Add():
                return x + inputs[1]
            case ChannelScale():
                return x * inputs[1]
            case Upsample():
                _, height, width = layer.output
                doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                return doubled[:, :, :height, :width]
            case WeightedSum():
                return sum(w * each for w, each in zip(self._factors(layer), inputs, strict=True))
            case PerAnchor():
                anchors, values, _ = layer.output
                return x.permute(0, 2, 3, 1).reshape(len(x), anchors, values)
            case Concat():
                return torch.cat(inputs, dim=1)
            case DecodeBoxes():
                return _decode_boxes(x, layer.anchors)
        raise NotImplementedError(type(layer).__name__)

    def _factors(self, layer: WeightedSum) -> list[Any]:
        """Return the factor of each input of a sum."""
        if layer.weights is None:
            return [1.0] * len(layer.inputs)
        weights = torch.relu(self.get_parameter(layer.weights))
        return list(weights / (weights.sum() + FUSION_EPSILON))


def build_module(network: Network, weights: Weights) -> NetworkModule:
    """Build the module of a network with these weights, in evaluation mode."""
    with torch.device("meta"):
        module = NetworkModule(network)
    state = {name: torch.from_numpy(array) for name, array in weights.state.items()}
    counters = {name: torch.tensor(0) for name in module.state_dict() if name.endswith("num_batches_tracked")}
    module.load_state_dict({**state, **counters}, assign=True)
    return module.eval()


def _decode_boxes(codes: Tensor, anchors: Anchors) -> Tensor:
    """Decode centre offsets, in sizes of anchors, and logarithms of sizes to corners.

    References:
        Ren et al., "Faster R-CNN", arXiv:1506.01497, equation 2.
    """
    boxes = torch.from_numpy(anchors.boxes()).float()
    offsets, logs = codes.float()[..., :2].flip(-1), codes.float()[..., 2:].flip(-1)
    centres, sizes = offsets * boxes[:, 2:] + boxes[:, :2], logs.exp() * boxes[:, 2:]
    return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=-1)


def _pad(x: Tensor, padding: tuple[int, int], value: float) -> Tensor:
    """Pad before and after each row and column."""
    return nn.functional.pad(x, 2 * padding, value=value)


def _conv2d(layer: Convolution) -> nn.Conv2d:
    return nn.Conv2d(
        layer.in_channels,
        layer.output[0],
        layer.kernel,
        layer.stride,
        groups=layer.groups,
        bias=layer.norm is None and layer.has_bias,
    )


def _add_submodule(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register a module at a dotted path."""
    parent, name = _parent(root, path)
    parent.add_module(name, module)


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the container of a dotted path's last part, creating containers on the way, and that part."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    return root, name
