"""efficientdet-pytorch, package effdet, whose names are ours: trained in PyTorch, and TensorFlow's weights.

References:
    rwightman/efficientdet-pytorch, effdet/config/model_config.py.
"""

from deploykit.networks.architecture.network import Network
from deploykit.networks.architecture.tensorflow import with_tensorflow_arithmetic
from deploykit.networks.checkpoints.sources.source import CheckpointSource, LayerNames, identical_names
from deploykit.networks.families import efficientdet


def _names(network: Network) -> LayerNames:
    return identical_names(network) if network.family == efficientdet.NAME else {}


EFFDET = CheckpointSource(title="efficientdet-pytorch", names=_names)
EFFDET_TF = CheckpointSource(
    title="efficientdet-pytorch's port of TensorFlow",
    names=_names,
    adapt=with_tensorflow_arithmetic,
    has_redundant_biases=True,
)
