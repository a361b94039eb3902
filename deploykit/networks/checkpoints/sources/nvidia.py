"""NVIDIA's DeepLearningExamples.

References:
    NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/image_classification/models/efficientnet.py
    and common.py: names, epsilon, and ngc_checkpoint_remap for what published checkpoints are called.
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

_WORDS = BlockLayerNames(
    expand=("expand.conv", "expand.bn"),
    depthwise=("depsep.conv", "depsep.bn"),
    project=("proj.conv", "proj.bn"),
    reduce="se.squeeze",
    restore="se.expand",
)
_PUBLISHED_STAGE = re.compile(r"layer(\d+)\.")


def _names(network: Network) -> LayerNames:
    if network.family != "efficientnet":
        return {}
    names: dict[str, str] = {}
    for block in iter_blocks(network):
        names |= _WORDS.names(block, f"layers.{block.stage}.block{block.place}")
    return add_stem_and_head(
        names,
        stem=("stem.conv", "stem.bn"),
        head=("features.conv", "features.bn"),
        last="classifier.fc",
    )


def _adapt(network: Network) -> Network:
    return replace(network, norm_epsilon=NORM_EPSILON)


def _today(name: str) -> str:
    """`layer1.` of the checkpoints on NGC is `layers.0.` in the code."""
    match = _PUBLISHED_STAGE.match(name)
    return f"layers.{int(match[1]) - 1}.{name[match.end() :]}" if match else name


NVIDIA = CheckpointSource(title="NVIDIA's DeepLearningExamples", names=_names, adapt=_adapt, today=_today)
