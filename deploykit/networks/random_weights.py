"""Random weights, for building and timing engines without a checkpoint; useless for accuracy."""

import math

import numpy as np

from deploykit.networks.architecture.network import (
    INPUT,
    Activation,
    Add,
    ChannelScale,
    Concat,
    Convolution,
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
from deploykit.util.array_types import Float32Array


def random_weights(network: Network, *, seed: int = 0) -> Weights:
    """Make weights that keep activations in FP16's range: right for latency, useless for accuracy.

    Each weight's variance is the inverse of fan-in times the mean square of the layer's input, so that
    outputs of convolutions have roughly unit variance and logits stay in the hundreds at any depth.

    References:
        He et al., arXiv:1502.01852, section 2.2, with the mean squares followed through the graph.
    """
    generator = np.random.default_rng(seed)
    state = {
        name: (np.ones if name.endswith("running_var") else np.zeros)(shape, np.float32)
        for name, shape in network.state_shapes.items()
    }
    gains = _gains(network)
    mean_square = {INPUT: 1.0}
    for layer in network.layers:
        gain = gains.get(layer.name, 1.0)
        mean_square[layer.name] = _mean_square(layer, [mean_square[name] for name in layer.inputs], gain)
        if isinstance(layer, WeightedSum) and layer.weights is not None:
            state[layer.weights] = np.ones(len(layer.inputs), np.float32)
        if isinstance(layer, Convolution | Linear):
            prefix = layer.prefix if isinstance(layer, Convolution) else layer.name
            shape = layer.weight_shape
            std = gain / math.sqrt(math.prod(shape[1:]) * mean_square[layer.inputs[0]])
            state[f"{prefix}.weight"] = generator.standard_normal(shape, np.float32) * np.float32(std)
        if isinstance(layer, Convolution) and layer.norm is not None:
            state[f"{layer.norm}.weight"] += 1
    _set_score_prior(network, state)
    return Weights(state=state, origin="random")


# Mean squares of f(x) for x ~ N(0, 1), by numerical integration; sigmoids stay near one half.
_ACTIVATION_MEAN_SQUARE = {"silu": 0.356, "sigmoid": 0.25, "relu": 0.5, "relu6": 0.5}
# SiLU multiplies the mean square by a quarter for small inputs and a half for large ones: a sum that is fed
# again and again without a norm vanishes or explodes. With this factor it does so slowly.
_SUM_FACTOR = 1.12
_BRANCH_GAIN = 0.2
_ANCHOR_GAIN = 0.002  # photographs give a hundred times larger activations than noise
_SCORE_PRIOR = 0.01
_POOLED_MEAN_SQUARE = 0.043  # the square of SiLU's mean, which dominates after pooling


def _gains(network: Network) -> dict[str, float]:
    """Return the gains of layers whose outputs must be small.

    These are residual branches and gates, since at full gain random deviations compound over fifty blocks,
    and predictions per anchor, since sizes of boxes are their exponentials.
    """
    gains: dict[str, float] = {}
    makers = {layer.name: layer for layer in network.layers}
    for layer in network.layers:
        if isinstance(layer, Add) and isinstance(branch := makers[layer.inputs[0]], Activation):
            gains[branch.inputs[0]] = _BRANCH_GAIN
        elif isinstance(layer, Add) or (isinstance(layer, Activation) and layer.kind == "sigmoid"):
            gains[layer.inputs[0]] = _BRANCH_GAIN
        elif isinstance(layer, PerAnchor):
            gains[layer.inputs[0]] = _ANCHOR_GAIN
    return gains


def _set_score_prior(network: Network, state: dict[str, Float32Array]) -> None:
    """Bias the scores so that few anchors score high, as in real images.

    References:
        Lin et al., arXiv:1708.02002, section 4.1, the prior.
    """
    makers = {layer.name: layer for layer in network.layers}
    for layer in network.layers:
        if not isinstance(layer, Activation) or layer.kind != "sigmoid":
            continue
        anchored = makers.get(layer.inputs[0])
        levels = [makers[name] for name in anchored.inputs] if isinstance(anchored, Concat) else []
        for conv in (makers[each.inputs[0]] for each in levels if isinstance(each, PerAnchor)):
            if isinstance(conv, Convolution) and conv.norm is None:
                state[f"{conv.prefix}.bias"] = np.full(
                    conv.output[:1], -math.log(1 / _SCORE_PRIOR - 1), np.float32
                )


def _mean_square(layer: Layer, inputs: list[float], gain: float) -> float:
    """Return the expected mean square of a layer's output."""
    match layer:
        case Activation(kind="silu"):
            return _ACTIVATION_MEAN_SQUARE["silu"] * inputs[0]
        case Activation():
            return _ACTIVATION_MEAN_SQUARE[layer.kind]
        case GlobalAveragePool():
            return _POOLED_MEAN_SQUARE
        case MaxPool() | Upsample() | PerAnchor() | Concat():
            return inputs[0]
        case WeightedSum(weights=None):
            return _SUM_FACTOR * sum(inputs)
        case WeightedSum():
            return _SUM_FACTOR * sum(inputs) / len(inputs) ** 2
        case Add():
            return sum(inputs)
        case ChannelScale():
            return math.prod(inputs)
    return gain**2
