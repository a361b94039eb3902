"""Weights for when there are none: right for building and timing engines, useless for accuracy."""

import math

import numpy as np

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


def random_weights(network: Network, *, seed: int = 0) -> Weights:
    """Weights that keep activations in FP16's range: right for latency, useless for accuracy.

    Each weight's variance is the inverse of its fan-in times the mean square of what it reads, so
    that convolutions make roughly unit variance and the logits stay in the hundreds at any depth.

    References:
        He et al., arXiv:1502.01852, section 2.2, with the mean squares followed through the graph.
    """
    generator = np.random.default_rng(seed)
    state = {
        name: (np.ones if name.endswith("running_var") else np.zeros)(shape, np.float32)
        for name, shape in network.state.items()
    }
    quiet = _quiet_layers(network)
    mean_square = {INPUT: 1.0}
    for layer in network.layers:
        mean_square[layer.name] = _mean_square(layer, [mean_square[name] for name in layer.inputs])
        if isinstance(layer, Convolution | Linear):
            shape = layer.weight_shape
            gain = _QUIET_GAIN if layer.name in quiet else 1
            std = gain / math.sqrt(math.prod(shape[1:]) * mean_square[layer.inputs[0]])
            state[f"{layer.name}.weight"] = generator.standard_normal(shape, np.float32) * np.float32(std)
        if isinstance(layer, Convolution) and layer.norm is not None:
            state[f"{layer.norm}.weight"] += 1
    return Weights(state=state, origin="random")


# Mean squares of f(x) for x ~ N(0, 1), by numerical integration; sigmoids stay near one half.
_ACTIVATION_MEAN_SQUARE = {"silu": 0.356, "sigmoid": 0.25, "relu": 0.5, "relu6": 0.5}
_QUIET_GAIN = 0.2
_POOLED_MEAN_SQUARE = 0.043  # the square of silu's mean: pooling leaves little else


def _quiet_layers(network: Network) -> set[str]:
    """Residual branches and gates: at full gain, chance deviations compound over fifty blocks."""
    return {
        layer.inputs[0]
        for layer in network.layers
        if isinstance(layer, Add) or (isinstance(layer, Activation) and layer.kind == "sigmoid")
    }


def _mean_square(layer: Layer, inputs: list[float]) -> float:
    match layer:
        case Activation():
            return _ACTIVATION_MEAN_SQUARE[layer.kind]
        case GlobalAveragePool():
            return _POOLED_MEAN_SQUARE
        case MaxPool():
            return inputs[0]
        case Add():
            return inputs[1] + _QUIET_GAIN**2
        case ChannelScale():
            return math.prod(inputs)
    return 1.0
