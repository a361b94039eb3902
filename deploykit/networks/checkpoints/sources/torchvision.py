"""torchvision's EfficientNets, MobileNetV2 and ResNets.

References:
    torchvision/models/efficientnet.py and mobilenetv2.py: names, epsilons, and transforms of the weights.
"""

from collections.abc import Iterable
from dataclasses import replace

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Network
from deploykit.networks.architecture.tensorflow import NORM_EPSILON
from deploykit.networks.checkpoints.sources.source import (
    CheckpointSource,
    LayerNames,
    NumberedBlock,
    add_stem_and_head,
    iter_blocks,
)

_B5_HEAD_CHANNELS = 2048


def _layer_names(network: Network) -> LayerNames:
    blocks = list(iter_blocks(network))
    if network.family.startswith("mobilenet"):
        block_names, head = _join(_mobilenet_block_names(block) for block in blocks), len(blocks) + 1
    else:
        block_names = _join(_block_names(block) for block in blocks)
        head = len({block.stage for block in blocks}) + 1
    return add_stem_and_head(
        block_names,
        stem=("features.0.0", "features.0.1"),
        head=(f"features.{head}.0", f"features.{head}.1"),
        classifier="classifier.1",
    )


def _join(parts: Iterable[LayerNames]) -> LayerNames:
    return {ours: theirs for part in parts for ours, theirs in part.items()}


def _block_names(block: NumberedBlock) -> LayerNames:
    names: dict[str, str] = {}
    unit = 0
    for layer in block.convolutions:
        prefix = f"features.{block.stage + 1}.{block.place}.block.{unit}"
        if layer.norm is None:
            is_first = layer.name.endswith("conv_reduce")
            names[layer.name] = f"{prefix}.fc{1 if is_first else 2}"
            unit += not is_first
        else:
            names |= {layer.name: f"{prefix}.0", layer.norm: f"{prefix}.1"}
            unit += 1
    return names


def _mobilenet_block_names(block: NumberedBlock) -> LayerNames:
    names: dict[str, str] = {}
    for unit, layer in enumerate(block.convolutions):
        prefix = f"features.{block.number + 1}.conv"
        is_last = layer is block.convolutions[-1]  # has no activation, and is not a unit
        conv, norm = (unit, unit + 1) if is_last else (f"{unit}.0", f"{unit}.1")
        names |= {layer.name: f"{prefix}.{conv}", str(layer.norm): f"{prefix}.{norm}"}
    return names


def _adapt(network: Network) -> Network:
    """Use TensorFlow's batch-norm epsilon in V2 and in B5 to B7."""
    is_large = network.family == "efficientnet" and network.convolutions[-1].output[0] >= _B5_HEAD_CHANNELS
    return replace(network, norm_epsilon=NORM_EPSILON) if is_large or "v2-" in network.family else network


def _normalization(family: str) -> Normalization:
    return "inception" if family == "efficientnetv2-l" else "imagenet"


TORCHVISION = CheckpointSource(
    title="torchvision", layer_names=_layer_names, adapt=_adapt, normalization=_normalization
)
