"""EfficientNet-PyTorch by lukemelas, which has TensorFlow's weights and arithmetic.

References:
    lukemelas/EfficientNet-PyTorch, efficientnet_pytorch/model.py.
"""

from deploykit.networks.architecture.network import Network
from deploykit.networks.architecture.tensorflow import as_tensorflow
from deploykit.networks.checkpoints.sources.source import Names, Scheme, Words, blocks_of, with_ends

_WORDS = Words(
    expand=("_expand_conv", "_bn0"),
    depthwise=("_depthwise_conv", "_bn1"),
    project=("_project_conv", "_bn2"),
    reduce="_se_reduce",
    restore="_se_expand",
)


def _names(network: Network) -> Names:
    if network.family != "efficientnet":
        return {}
    names: dict[str, str] = {}
    for block in blocks_of(network):
        names |= _WORDS.names(block, f"_blocks.{block.number}")
    return with_ends(names, stem=("_conv_stem", "_bn0"), head=("_conv_head", "_bn1"), last="_fc")


LUKEMELAS = Scheme(title="EfficientNet-PyTorch", names=_names, adapt=as_tensorflow)
