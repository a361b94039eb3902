"""timm, whose names are ours, and the ports of TensorFlow's weights that it has.

References:
    timm/models/efficientnet.py: names; default_cfgs for mean and std of the ports, `tf_...`.
"""

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Network
from deploykit.networks.architecture.tensorflow import as_tensorflow
from deploykit.networks.checkpoints.sources.source import Names, Scheme, own_names
from deploykit.networks.families import efficientdet

_INCEPTIONS = {"efficientnet-lite", "efficientnetv2-s", "efficientnetv2-m", "efficientnetv2-l"}


def _names(network: Network) -> Names:
    return {} if network.family == efficientdet.NAME else own_names(network)


def _normalization(family: str) -> Normalization:
    return "inception" if family in _INCEPTIONS else "imagenet"


TIMM = Scheme(title="timm", names=_names)
TF_PORT = Scheme(
    title="timm's port of TensorFlow", names=_names, adapt=as_tensorflow, normalization=_normalization
)
