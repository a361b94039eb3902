"""NVIDIA's DeepLearningExamples, by the names of its code and of the checkpoints on NGC.

References:
    NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/image_classification/models/efficientnet.py
    and common.py: names and epsilon; ngc_checkpoint_remap: names in published checkpoints.
"""

import re
from dataclasses import replace

from deploykit.networks.architecture.network import Network
from deploykit.networks.architecture.tensorflow import NORM_EPSILON
from deploykit.networks.checkpoints.sources.source import (
    BlockLayerNames,
    CheckpointSource,
    LayerNames,
    add_stem_and_head,
    iter_blocks,
)

_BLOCK_NAMES = BlockLayerNames(
    expand=("expand.conv", "expand.bn"),
    depthwise=("depsep.conv", "depsep.bn"),
    project=("proj.conv", "proj.bn"),
    squeeze="se.squeeze",
    excite="se.expand",
)
_NGC_STAGE = re.compile(r"layer(\d+)\.")


def _layer_names(network: Network) -> LayerNames:
    if network.family != "efficientnet":
        return {}
    names: dict[str, str] = {}
    for block in iter_blocks(network):
        names |= _BLOCK_NAMES.map_block(block, f"layers.{block.stage}.block{block.place}")
    return add_stem_and_head(
        names,
        stem=("stem.conv", "stem.bn"),
        head=("features.conv", "features.bn"),
        classifier="classifier.fc",
    )


def _adapt(network: Network) -> Network:
    return replace(network, norm_epsilon=NORM_EPSILON)


def _modern_name(name: str) -> str:
    """Translate `layer1.` of the checkpoints on NGC to `layers.0.` of the code."""
    match = _NGC_STAGE.match(name)
    return f"layers.{int(match[1]) - 1}.{name[match.end() :]}" if match else name


NVIDIA = CheckpointSource(
    title="NVIDIA's DeepLearningExamples", layer_names=_layer_names, adapt=_adapt, modern_name=_modern_name
)
