"""Trained tensors as the constants that a graph for inference has."""

import numpy as np
import numpy.typing as npt

from deploykit.networks.architecture.network import Convolution, Network, WeightedSum
from deploykit.networks.checkpoints.weights import StateDict

FUSION_EPSILON = 1e-4
"""Of fast normalized fusion; arXiv:1911.09070, section 3.3."""

Array = npt.NDArray[np.float32]


def norm_epsilon(layer: Convolution, network: Network) -> float:
    """What the convolution's batch norm adds to the variance."""
    return network.norm_epsilon if layer.norm_epsilon is None else layer.norm_epsilon


def fold_batch_norm(layer: Convolution, state: StateDict, *, epsilon: float) -> tuple[Array, Array | None]:
    """Weight and bias of the convolution with its batch norm folded in, (out, in, k, k) and (out,).

    The bias is None where it has none, and no norm.

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


def fusion_factors(layer: WeightedSum, state: StateDict) -> Array | None:
    """What each input of a sum is multiplied by, (inputs,); None for nothing."""
    if layer.weights is None:
        return None
    weights = np.maximum(state[layer.weights].astype(np.float64), 0)
    factors: Array = (weights / (weights.sum() + FUSION_EPSILON)).astype(np.float32)
    return factors
