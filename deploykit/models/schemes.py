"""How others name the parameters of the networks here, and what their networks do differently.

References:
    torchvision/models/efficientnet.py and mobilenetv2.py.
    lukemelas/EfficientNet-PyTorch, efficientnet_pytorch/model.py, which has TensorFlow's weights.
    NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/image_classification/models/efficientnet.py.
    rwightman/efficientdet-pytorch, effdet/config/model_config.py.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, get_args

from deploykit.architecture import efficientdet
from deploykit.architecture.graph import Convolution, Linear, Network
from deploykit.architecture.tensorflow import NORM_EPSILON, as_tensorflow
from deploykit.errors import DeployError
from deploykit.models.redundant_bias import absorbed, redundant_biases
from deploykit.models.weights import State, Weights

Source = Literal["timm", "tf-port", "torchvision", "lukemelas", "nvidia", "effdet", "effdet-tf"]
SOURCES: tuple[Source, ...] = get_args(Source)

Names = Mapping[str, str]
"""Their prefix of each of our layers and batch norms."""

_B5_HEAD = 2048  # channels
_STAGED = re.compile(r"blocks\.(\d+)\.(\d+)")
_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Attributes:
    names: of a network's layers and norms; {} for networks that they don't have.
    adapt: the network as theirs computes it.
    has_redundant_biases: whether convolutions before a batch norm have a bias all the same.
    """

    names: Callable[[Network], Names]
    adapt: Callable[[Network], Network]
    has_redundant_biases: bool = False


def translate(weights: Weights, network: Network, source: Source | None = None) -> tuple[Weights, Source]:
    """Weights under the network's own names, and whose they were; their number of classes may be another.

    What no name fits is left as it is, for require_match to tell. TensorFlow's ports have timm's names: that
    they are such, source has to say.

    Args:
        source: whose names; default those that fit best.

    Raises:
        DeployError: the source has no such network.
    """
    if source is not None and not SCHEMES[source].names(network):
        fitting = [each for each in SOURCES if SCHEMES[each].names(network)]
        raise DeployError(
            f"{source} has no {network.family}.", fix=f"leave out --source, or give {' or '.join(fitting)}"
        )
    fits: dict[Source, int] = {each: _fitting(weights.state, network, each) for each in SOURCES}
    chosen = source if source is not None else max(fits, key=lambda each: fits[each])
    names = _parameter_names(network, chosen)
    state = {names.get(name, name): value for name, value in weights.state.items()}
    shaped = {
        name: value[:, :, None, None] if len(network.state.get(name, ())) == value.ndim + 2 == 4 else value
        for name, value in state.items()
    }
    return replace(weights, state=absorbed(shaped, network)), chosen


def _fitting(state: State, network: Network, source: Source) -> int:
    wanted = (
        {**network.state, **redundant_biases(network)}
        if SCHEMES[source].has_redundant_biases
        else network.state
    )
    names = _parameter_names(network, source)
    return sum(names.get(name) in wanted for name in state)


def _parameter_names(network: Network, source: Source) -> dict[str, str]:
    """Our full name by theirs."""
    return {
        f"{theirs}.{part}": f"{ours}.{part}"
        for ours, theirs in SCHEMES[source].names(network).items()
        for part in _PARTS
    }


def _timm(network: Network) -> Names:
    return {} if network.family == efficientdet.NAME else _own(network)


def _effdet(network: Network) -> Names:
    return _own(network) if network.family == efficientdet.NAME else {}


def _own(network: Network) -> Names:
    return {name: name for layer in network.layers for name in _prefixes(layer)}


def _prefixes(layer: object) -> Iterator[str]:
    if isinstance(layer, Convolution | Linear):
        yield layer.prefix if isinstance(layer, Convolution) else layer.name
    if isinstance(layer, Convolution) and layer.norm is not None:
        yield layer.norm


def _convolutions(network: Network) -> Iterator[tuple[int, int, int, list[Convolution]]]:
    """Stage, place in it, place among all, and convolutions of each block, for networks that have stages."""
    blocks = groupby(network.convolutions, key=lambda layer: layer.block)
    staged = [(match, list(layers)) for block, layers in blocks if (match := _STAGED.fullmatch(block))]
    for at, (match, layers) in enumerate(staged):
        yield int(match[1]), int(match[2]), at, layers


def _with_ends(blocks: Names, *, stem: tuple[str, str], head: tuple[str, str], last: str) -> Names:
    ends = {
        "conv_stem": stem[0],
        "bn1": stem[1],
        "conv_head": head[0],
        "bn2": head[1],
        "classifier": last,
    }
    return {**ends, **blocks} if blocks else {}


def _torchvision(network: Network) -> Names:
    if network.family.startswith("mobilenet"):
        return _torchvision_mobilenet(network)
    names: dict[str, str] = {}
    stages = 0
    for stage, place, _, layers in _convolutions(network):
        stages, unit = stage + 1, 0
        for layer in layers:
            prefix = f"features.{stage + 1}.{place}.block.{unit}"
            if layer.norm is None:
                is_first = layer.name.endswith("conv_reduce")
                names[layer.name] = f"{prefix}.fc{1 if is_first else 2}"
                unit += not is_first
            else:
                names |= {layer.name: f"{prefix}.0", layer.norm: f"{prefix}.1"}
                unit += 1
    head = f"features.{stages + 1}"
    return _with_ends(
        names,
        stem=("features.0.0", "features.0.1"),
        head=(f"{head}.0", f"{head}.1"),
        last="classifier.1",
    )


def _torchvision_mobilenet(network: Network) -> Names:
    names: dict[str, str] = {}
    blocks = 0
    for _, _, at, layers in _convolutions(network):
        blocks = at + 1
        for unit, layer in enumerate(layers):
            prefix = f"features.{at + 1}.conv"
            is_last = layer is layers[-1]  # which has no activation, and is no unit of its own
            conv, norm = (unit, unit + 1) if is_last else (f"{unit}.0", f"{unit}.1")
            names |= {layer.name: f"{prefix}.{conv}", str(layer.norm): f"{prefix}.{norm}"}
    head = f"features.{blocks + 1}"
    return _with_ends(
        names,
        stem=("features.0.0", "features.0.1"),
        head=(f"{head}.0", f"{head}.1"),
        last="classifier.1",
    )


_LUKEMELAS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "reduce": ("_se_reduce", ""),
    "restore": ("_se_expand", ""),
}
_NVIDIA = {
    "expand": ("expand.conv", "expand.bn"),
    "depthwise": ("depsep.conv", "depsep.bn"),
    "project": ("proj.conv", "proj.bn"),
    "reduce": ("se.squeeze", ""),
    "restore": ("se.expand", ""),
}


def _by_role(
    network: Network, words: Mapping[str, tuple[str, str]], prefix: Callable[[int, int, int], str]
) -> Names:
    names: dict[str, str] = {}
    for stage, place, at, layers in _convolutions(network):
        for layer in layers:
            conv, norm = words[_role(layer, layers)]
            names[layer.name] = f"{prefix(stage, place, at)}.{conv}"
            if layer.norm is not None:
                names[layer.norm] = f"{prefix(stage, place, at)}.{norm}"
    return names


def _role(layer: Convolution, block: list[Convolution]) -> str:
    if layer.norm is None:
        return "reduce" if layer.name.endswith("conv_reduce") else "restore"
    if layer is block[-1]:
        return "project"
    return "depthwise" if layer.is_depthwise else "expand"


def _lukemelas(network: Network) -> Names:
    if network.family != "efficientnet":
        return {}
    return _with_ends(
        _by_role(network, _LUKEMELAS, lambda stage, place, at: f"_blocks.{at}"),
        stem=("_conv_stem", "_bn0"),
        head=("_conv_head", "_bn1"),
        last="_fc",
    )


def _nvidia(network: Network) -> Names:
    if network.family != "efficientnet":
        return {}
    return _with_ends(
        _by_role(network, _NVIDIA, lambda stage, place, at: f"layers.{stage}.block{place}"),
        stem=("stem.conv", "stem.bn"),
        head=("features.conv", "features.bn"),
        last="classifier.fc",
    )


def _unchanged(network: Network) -> Network:
    return network


def _with_tensorflows_epsilon(network: Network) -> Network:
    return replace(network, norm_epsilon=NORM_EPSILON)


def _as_torchvision(network: Network) -> Network:
    """Its batch norms have TensorFlow's epsilon in V2, and in B5 to B7."""
    is_large = network.family == "efficientnet" and network.convolutions[-1].output[0] >= _B5_HEAD
    return _with_tensorflows_epsilon(network) if is_large or "v2-" in network.family else network


SCHEMES: Mapping[Source, Scheme] = {
    "timm": Scheme(names=_timm, adapt=_unchanged),
    "tf-port": Scheme(names=_timm, adapt=as_tensorflow),
    "torchvision": Scheme(names=_torchvision, adapt=_as_torchvision),
    "lukemelas": Scheme(names=_lukemelas, adapt=as_tensorflow),
    "nvidia": Scheme(names=_nvidia, adapt=_with_tensorflows_epsilon),
    "effdet": Scheme(names=_effdet, adapt=_unchanged),
    "effdet-tf": Scheme(names=_effdet, adapt=as_tensorflow, has_redundant_biases=True),
}
