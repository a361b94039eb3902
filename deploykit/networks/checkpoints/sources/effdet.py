"""efficientdet-pytorch, package effdet, whose names are ours: trained in PyTorch, and TensorFlow's weights.

References:
    rwightman/efficientdet-pytorch, effdet/config/model_config.py.
"""

from deploykit.networks.architecture.network import Network
from deploykit.networks.architecture.tensorflow import as_tensorflow
from deploykit.networks.checkpoints.sources.source import Names, Scheme, own_names
from deploykit.networks.families import efficientdet


def _names(network: Network) -> Names:
    return own_names(network) if network.family == efficientdet.NAME else {}


EFFDET = Scheme(title="efficientdet-pytorch", names=_names)
EFFDET_TF = Scheme(
    title="efficientdet-pytorch's port of TensorFlow",
    names=_names,
    adapt=as_tensorflow,
    has_redundant_biases=True,
)
