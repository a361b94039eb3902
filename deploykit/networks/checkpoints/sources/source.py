"""What a checkpoint source is, and helpers that several sources share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Convolution, Layer, Linear, Network

LayerNames = Mapping[str, str]
"""The source's prefix for each of this package's layers and batch norms."""


def keep_network(network: Network) -> Network:
    """Return the network unchanged; the default of CheckpointSource.adapt."""
    return network


def keep_name(name: str) -> str:
    """Return the name unchanged; the default of CheckpointSource.modern_name."""
    return name


def imagenet_normalization(family: str) -> Normalization:
    """Return `imagenet` for every family; the default of CheckpointSource.normalization."""
    return "imagenet"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSource:
    """A library that checkpoints come from: how it names parameters and what it computes differently.

    Attributes:
        title: The library's name, for messages.
        layer_names: Return the library's names of a network's layers and norms; {} for networks it lacks.
        adapt: Return the network as the library computes it.
        modern_name: Translate a parameter name of an older version to the current one.
        normalization: Return the normalization of the images that a family was trained on.
        has_redundant_biases: Whether convolutions before a batch norm have a bias as well.
    """

    title: str
    layer_names: Callable[[Network], LayerNames]
    adapt: Callable[[Network], Network] = keep_network
    modern_name: Callable[[str], str] = keep_name
    normalization: Callable[[str], Normalization] = imagenet_normalization
    has_redundant_biases: bool = False


def identical_names(network: Network) -> LayerNames:
    """Return the names of a source that names every layer as this package does."""
    return {name: name for layer in network.layers for name in _prefixes(layer)}


def _prefixes(layer: Layer) -> Iterator[str]:
    if isinstance(layer, Convolution | Linear):
        yield layer.prefix if isinstance(layer, Convolution) else layer.name
    if isinstance(layer, Convolution) and layer.norm is not None:
        yield layer.norm


class NumberedBlock(NamedTuple):
    """The convolutions of one building block, and where it stands.

    stage: The stage it belongs to. place: Its place in that stage. number: Its place among all blocks.
    """

    stage: int
    place: int
    number: int
    convolutions: list[Convolution]


def iter_blocks(network: Network) -> Iterator[NumberedBlock]:
    """Yield the blocks of a network that has stages; timm names them `blocks.STAGE.PLACE`."""
    number = 0
    for name, layers in groupby(network.convolutions, key=lambda layer: layer.block):
        match name.split("."):
            case ["blocks", stage, place]:
                yield NumberedBlock(int(stage), int(place), number, list(layers))
                number += 1


def add_stem_and_head(
    blocks: LayerNames, *, stem: tuple[str, str], head: tuple[str, str], classifier: str
) -> LayerNames:
    """Add the names of stem, head (convolution and norm each) and classifier; {} if there are no blocks."""
    ends = {
        "conv_stem": stem[0],
        "bn1": stem[1],
        "conv_head": head[0],
        "bn2": head[1],
        "classifier": classifier,
    }
    return {**ends, **blocks} if blocks else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLayerNames:
    """A source's names of an inverted residual's layers: convolution and norm, or a squeeze-excite layer."""

    expand: tuple[str, str]
    depthwise: tuple[str, str]
    project: tuple[str, str]
    squeeze: str
    excite: str

    def map_block(self, block: NumberedBlock, prefix: str) -> LayerNames:
        """Return the names of a block's layers and norms, under the source's prefix of the block."""
        names: dict[str, str] = {}
        for layer in block.convolutions:
            if layer.norm is None:
                name = self.squeeze if layer.name.endswith("conv_reduce") else self.excite
                names[layer.name] = f"{prefix}.{name}"
            else:
                conv, norm = self._conv_and_norm(layer, block)
                names |= {layer.name: f"{prefix}.{conv}", layer.norm: f"{prefix}.{norm}"}
        return names

    def _conv_and_norm(self, layer: Convolution, block: NumberedBlock) -> tuple[str, str]:
        if layer is block.convolutions[-1]:
            return self.project
        return self.depthwise if layer.is_depthwise else self.expand
