"""How others name the parameters of the networks here, and what their networks do differently."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.redundant_bias import absorb_redundant_biases, redundant_biases
from deploykit.networks.checkpoints.sources.effdet import EFFDET, EFFDET_TF
from deploykit.networks.checkpoints.sources.lukemelas import LUKEMELAS
from deploykit.networks.checkpoints.sources.nvidia import NVIDIA
from deploykit.networks.checkpoints.sources.source import CheckpointSource
from deploykit.networks.checkpoints.sources.timm import TF_PORT, TIMM
from deploykit.networks.checkpoints.sources.torchvision import TORCHVISION
from deploykit.networks.checkpoints.weights import Weights
from deploykit.util.errors import DeployError

SourceName = Literal["timm", "tf-port", "torchvision", "lukemelas", "nvidia", "effdet", "effdet-tf"]
SOURCE_NAMES: tuple[SourceName, ...] = get_args(SourceName)
SOURCES: Mapping[SourceName, CheckpointSource] = {
    "timm": TIMM,
    "tf-port": TF_PORT,
    "torchvision": TORCHVISION,
    "lukemelas": LUKEMELAS,
    "nvidia": NVIDIA,
    "effdet": EFFDET,
    "effdet-tf": EFFDET_TF,
}

_PARTS = ("weight", "bias", "running_mean", "running_var")
# How files of published checkpoints are called: timm's ports, and AdvProp by lukemelas and timm.
_PORT, _ADVPROP = re.compile(r"tf_"), re.compile(r"adv-|.*_ap[-._]")


def translate_weights(
    weights: Weights, network: Network, source: SourceName | None = None
) -> tuple[Weights, SourceName]:
    """Weights under the network's own names, and whose they were; their number of classes may be another.

    What no name fits is left as it is, for weights.match to tell.

    Args:
        source: whose names; default those that fit best, and of timm's two what the file is called.

    Raises:
        DeployError: the source has no such network.
    """
    if source is not None and not SOURCES[source].names(network):
        fitting = [each for each in SOURCE_NAMES if SOURCES[each].names(network)]
        raise DeployError(
            f"{source} has no {network.family}.",
            code="source-family-mismatch",
            fix=f"leave out --source, or give {' or '.join(fitting)}",
        )
    fits: dict[SourceName, int] = {each: _fitting(weights, network, each) for each in SOURCE_NAMES}
    chosen = source if source is not None else max(fits, key=lambda each: fits[each])
    if source is None and chosen == "timm" and _PORT.match(weights.origin):
        chosen = "tf-port"
    names, today = _parameter_names(network, chosen), SOURCES[chosen].today
    wanted = network.state
    state = {names.get(today(name), name): value for name, value in weights.state.items()}
    shaped = {
        name: value[:, :, None, None] if len(wanted.get(name, ())) == value.ndim + 2 == 4 else value
        for name, value in state.items()
    }
    return replace(weights, state=absorb_redundant_biases(shaped, network)), chosen


def trained_normalization(weights: Weights, family: str, source: SourceName) -> Normalization:
    """Of the images that weights were trained on, as far as source and file name tell.

    References:
        Xie et al., arXiv:1911.09665 (AdvProp), whose checkpoints take images from -1 to 1.
    """
    return "inception" if _ADVPROP.match(weights.origin) else SOURCES[source].normalization(family)


def _fitting(weights: Weights, network: Network, source: SourceName) -> int:
    scheme, wanted = SOURCES[source], set(network.state)
    if scheme.has_redundant_biases:
        wanted |= set(redundant_biases(network))
    names = _parameter_names(network, source)
    return sum(names.get(scheme.today(name)) in wanted for name in weights.state)


def _parameter_names(network: Network, source: SourceName) -> dict[str, str]:
    """Our full name by theirs."""
    return {
        f"{theirs}.{part}": f"{ours}.{part}"
        for ours, theirs in SOURCES[source].names(network).items()
        for part in _PARTS
    }
