"""timm, whose parameter names this package uses, and its ports of TensorFlow's weights.

References:
    timm/models/efficientnet.py: names; default_cfgs for mean and std of the ports, `tf_...`.
"""

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Network
from deploykit.networks.architecture.tensorflow import with_tensorflow_arithmetic
from deploykit.networks.checkpoints.sources.source import CheckpointSource, LayerNames, identical_names
from deploykit.networks.families import efficientdet

_INCEPTION_FAMILIES = {"efficientnet-lite", "efficientnetv2-s", "efficientnetv2-m", "efficientnetv2-l"}


def _layer_names(network: Network) -> LayerNames:
    return {} if network.family == efficientdet.NAME else identical_names(network)


def _normalization(family: str) -> Normalization:
    return "inception" if family in _INCEPTION_FAMILIES else "imagenet"


TIMM = CheckpointSource(title="timm", layer_names=_layer_names)
TF_PORT = CheckpointSource(
    title="timm's port of TensorFlow",
    layer_names=_layer_names,
    adapt=with_tensorflow_arithmetic,
    normalization=_normalization,
)
