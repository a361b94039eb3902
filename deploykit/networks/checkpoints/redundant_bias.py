"""Biases before a batch norm, which some checkpoints have: the norm's mean can say the same."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.weights import StateDict


def redundant_biases(network: Network) -> Mapping[str, tuple[str, ...]]:
    """The norms after each bias that a checkpoint may have and the network hasn't, by the bias's name."""
    found: dict[str, tuple[str, ...]] = {}
    for conv in network.convolutions:
        if conv.norm is not None:
            name = f"{conv.prefix}.bias"
            found[name] = (*found.get(name, ()), conv.norm)
    return found


def absorb_redundant_biases(state: StateDict, network: Network) -> dict[str, npt.NDArray[np.float32]]:
    """The state without such biases: taken from the means of the norms that follow."""
    kept = dict(state)
    for name, norms in redundant_biases(network).items():
        means = [f"{norm}.running_mean" for norm in norms]
        bias = kept.get(name)
        if bias is None or any(mean not in kept or kept[mean].shape != bias.shape for mean in means):
            continue
        for mean in means:
            kept[mean] = (kept[mean].astype(np.float64) - bias).astype(np.float32)
        del kept[name]
    return kept
