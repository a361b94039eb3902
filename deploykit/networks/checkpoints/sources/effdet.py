"""efficientdet-pytorch (package effdet), whose parameter names this package uses: weights trained in PyTorch,
and ports of TensorFlow's.

References:
    rwightman/efficientdet-pytorch, effdet/config/model_config.py.
"""

from deploykit.networks.architecture.network import Network
from deploykit.networks.architecture.tensorflow import with_tensorflow_arithmetic
from deploykit.networks.checkpoints.sources.source import CheckpointSource, LayerNames, identical_names
from deploykit.networks.families import efficientdet


def _layer_names(network: Network) -> LayerNames:
    return identical_names(network) if network.family == efficientdet.NAME else {}


EFFDET = CheckpointSource(title="efficientdet-pytorch", layer_names=_layer_names)
EFFDET_TF = CheckpointSource(
    title="efficientdet-pytorch's port of TensorFlow",
    layer_names=_layer_names,
    adapt=with_tensorflow_arithmetic,
    has_redundant_biases=True,
)
