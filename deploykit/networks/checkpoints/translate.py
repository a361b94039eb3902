"""Translating a checkpoint from another library's parameter names to those used here."""

import re
from dataclasses import replace

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.redundant_bias import absorb_redundant_biases, redundant_biases
from deploykit.networks.checkpoints.sources.registry import SOURCE_NAMES, SOURCES, SourceName
from deploykit.networks.checkpoints.weights import Weights
from deploykit.util.errors import DeployError

_TENSOR_NAMES = ("weight", "bias", "running_mean", "running_var")
# File names of published checkpoints: timm's ports, and AdvProp's by lukemelas and timm.
_PORT_FILE, _ADVPROP_FILE = re.compile(r"tf_"), re.compile(r"adv-|.*_ap[-._]")


def translate_weights(
    weights: Weights, network: Network, source: SourceName | None = None
) -> tuple[Weights, SourceName]:
    """Rename a checkpoint's tensors to the network's own names.

    Tensors with unknown names keep them, so that match_tensors reports them. Class counts may differ.

    Args:
        weights: As read from the checkpoint.
        network: The network to translate for.
        source: The library whose names the checkpoint uses. Default the one whose names fit best; of timm's
            two, the file name decides.

    Returns:
        The renamed weights, and their source.

    Raises:
        DeployError: The source has no such network.
    """
    if source is not None and not SOURCES[source].layer_names(network):
        suitable = [name for name in SOURCE_NAMES if SOURCES[name].layer_names(network)]
        raise DeployError(
            f"--source {source} does not support {network.family}.",
            code="source-family-mismatch",
            fix=f"remove --source, or use --source {' or '.join(suitable)}",
        )
    counts = {name: _count_known_names(weights, network, name) for name in SOURCE_NAMES}
    chosen = source if source is not None else max(SOURCE_NAMES, key=lambda name: counts[name])
    if source is None and chosen == "timm" and _PORT_FILE.match(weights.origin):
        chosen = "tf-port"
    names, modern_name = _parameter_names(network, chosen), SOURCES[chosen].modern_name
    shapes = network.state_shapes
    state = {names.get(modern_name(name), name): value for name, value in weights.state.items()}
    # Some versions write 1x1 convolutions as linear layers.
    reshaped = {
        name: value[:, :, None, None] if len(shapes.get(name, ())) == value.ndim + 2 == 4 else value
        for name, value in state.items()
    }
    return replace(weights, state=absorb_redundant_biases(reshaped, network)), chosen


def trained_normalization(weights: Weights, family: str, source: SourceName) -> Normalization:
    """Return the normalization of the images that weights were trained on, by source and file name.

    References:
        Xie et al., arXiv:1911.09665 (AdvProp), whose checkpoints take images from -1 to 1.
    """
    return "inception" if _ADVPROP_FILE.match(weights.origin) else SOURCES[source].normalization(family)


def _count_known_names(weights: Weights, network: Network, source: SourceName) -> int:
    checkpoint_source, known = SOURCES[source], set(network.state_shapes)
    if checkpoint_source.has_redundant_biases:
        known |= set(redundant_biases(network))
    names = _parameter_names(network, source)
    return sum(names.get(checkpoint_source.modern_name(name)) in known for name in weights.state)


def _parameter_names(network: Network, source: SourceName) -> dict[str, str]:
    """Return this package's full parameter name for each of the source's."""
    return {
        f"{theirs}.{part}": f"{ours}.{part}"
        for ours, theirs in SOURCES[source].layer_names(network).items()
        for part in _TENSOR_NAMES
    }
