"""Biases before a batch norm, which some checkpoints have: the norm's mean can absorb them."""

from collections.abc import Mapping

import numpy as np

from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.weights import StateDict
from deploykit.util.array_types import Float32Array


def redundant_biases(network: Network) -> Mapping[str, tuple[str, ...]]:
    """Return each bias that a checkpoint may have and the network has not, with the norms that follow it."""
    biases: dict[str, tuple[str, ...]] = {}
    for conv in network.convolutions:
        if conv.norm is not None:
            name = f"{conv.prefix}.bias"
            biases[name] = (*biases.get(name, ()), conv.norm)
    return biases


def absorb_redundant_biases(state: StateDict, network: Network) -> dict[str, Float32Array]:
    """Return the state without redundant biases, which are subtracted from the means of the norms instead."""
    result = dict(state)
    for name, norms in redundant_biases(network).items():
        means = [f"{norm}.running_mean" for norm in norms]
        bias = result.get(name)
        if bias is None or any(mean not in result or result[mean].shape != bias.shape for mean in means):
            continue
        for mean in means:
            result[mean] = (result[mean].astype(np.float64) - bias).astype(np.float32)
        del result[name]
    return result
