"""What a scheme of names is, and what several of them share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Convolution, Layer, Linear, Network

LayerNames = Mapping[str, str]
"""Their prefix of each of our layers and batch norms."""


def keep_network(network: Network) -> Network:
    return network


def keep_name(name: str) -> str:
    return name


def imagenet_normalization(family: str) -> Normalization:
    return "imagenet"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSource:
    """How somebody else names the parameters of the networks here, and computes them.

    Attributes:
        title: whose it is, as people say it.
        names: of a network's layers and norms; {} for networks that they don't have.
        adapt: the network as theirs computes it.
        today: an older name of theirs -> what they call it now.
        normalization: of the images that a family of theirs was trained on.
        has_redundant_biases: whether convolutions before a batch norm have a bias all the same.
    """

    title: str
    names: Callable[[Network], LayerNames]
    adapt: Callable[[Network], Network] = keep_network
    today: Callable[[str], str] = keep_name
    normalization: Callable[[str], Normalization] = imagenet_normalization
    has_redundant_biases: bool = False


def identical_names(network: Network) -> LayerNames:
    """Where theirs are ours."""
    return {name: name for layer in network.layers for name in _prefixes(layer)}


def _prefixes(layer: Layer) -> Iterator[str]:
    if isinstance(layer, Convolution | Linear):
        yield layer.prefix if isinstance(layer, Convolution) else layer.name
    if isinstance(layer, Convolution) and layer.norm is not None:
        yield layer.norm


class Block(NamedTuple):
    """Convolutions of one building block.

    stage: it belongs to. place: in that stage. number: among all blocks.
    """

    stage: int
    place: int
    number: int
    convolutions: list[Convolution]


def iter_blocks(network: Network) -> Iterator[Block]:
    """Of networks that have stages; timm calls their blocks `blocks.STAGE.PLACE`."""
    number = 0
    for name, layers in groupby(network.convolutions, key=lambda layer: layer.block):
        match name.split("."):
            case ["blocks", stage, place]:
                yield Block(int(stage), int(place), number, list(layers))
                number += 1


def add_stem_and_head(
    blocks: LayerNames, *, stem: tuple[str, str], head: tuple[str, str], last: str
) -> LayerNames:
    """With convolution and norm of stem and head, and the last layer; {} where there are no blocks."""
    ends = {
        "conv_stem": stem[0],
        "bn1": stem[1],
        "conv_head": head[0],
        "bn2": head[1],
        "classifier": last,
    }
    return {**ends, **blocks} if blocks else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLayerNames:
    """Their names of an inverted residual's layers, each convolution with its norm."""

    expand: tuple[str, str]
    depthwise: tuple[str, str]
    project: tuple[str, str]
    reduce: str
    restore: str

    def names(self, block: Block, prefix: str) -> LayerNames:
        names: dict[str, str] = {}
        for layer in block.convolutions:
            if layer.norm is None:
                last = self.reduce if layer.name.endswith("conv_reduce") else self.restore
                names[layer.name] = f"{prefix}.{last}"
            else:
                conv, norm = self._normed(layer, block)
                names |= {layer.name: f"{prefix}.{conv}", layer.norm: f"{prefix}.{norm}"}
        return names

    def _normed(self, layer: Convolution, block: Block) -> tuple[str, str]:
        if layer is block.convolutions[-1]:
            return self.project
        return self.depthwise if layer.is_depthwise else self.expand
