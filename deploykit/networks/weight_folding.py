"""Folding trained tensors into the constants of an inference graph."""

import numpy as np

from deploykit.networks.architecture.network import Convolution, Network, WeightedSum
from deploykit.networks.checkpoints.weights import StateDict
from deploykit.util.array_types import Float32Array

FUSION_EPSILON = 1e-4
"""Epsilon of fast normalized fusion; arXiv:1911.09070, section 3.3."""


def norm_epsilon(layer: Convolution, network: Network) -> float:
    """Return the epsilon of a convolution's batch norm."""
    return network.norm_epsilon if layer.norm_epsilon is None else layer.norm_epsilon


def fold_batch_norm(
    layer: Convolution, state: StateDict, *, epsilon: float
) -> tuple[Float32Array, Float32Array | None]:
    """Return weight and bias of a convolution with its batch norm folded in.

    Returns:
        The weight, (out, in, k, k), and the bias, (out,); None if there is neither bias nor norm.

    References:
        Jacob et al., arXiv:1712.05877, section 3.2.
    """
    weight = state[f"{layer.prefix}.weight"]
    if layer.norm is None:
        return weight, state[f"{layer.prefix}.bias"] if layer.has_bias else None
    gamma, beta, mean, variance = (
        state[f"{layer.norm}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(variance + epsilon)
    return (weight * factor[:, None, None, None]).astype(np.float32), (beta - mean * factor).astype(
        np.float32
    )


def fusion_factors(layer: WeightedSum, state: StateDict) -> Float32Array | None:
    """Return the factor of each input of a weighted sum, (inputs,), or None for a plain sum."""
    if layer.weights is None:
        return None
    weights = np.maximum(state[layer.weights].astype(np.float64), 0)
    factors: Float32Array = (weights / (weights.sum() + FUSION_EPSILON)).astype(np.float32)
    return factors
