"""timm, whose names are ours, and the ports of TensorFlow's weights that it has.

References:
    timm/models/efficientnet.py: names; default_cfgs for mean and std of the ports, `tf_...`.
"""

from collections.abc import Iterator

from deploykit.architecture.graph import Convolution, Layer, Linear, Network
from deploykit.architecture.tensorflow import as_tensorflow
from deploykit.models.schemes.scheme import Names, Scheme
from deploykit.preprocessing import Normalization

_INCEPTIONS = {"efficientnet-lite", "efficientnetv2-s", "efficientnetv2-m", "efficientnetv2-l"}


def _own(network: Network) -> Names:
    return {name: name for layer in network.layers for name in _prefixes(layer)}


def _prefixes(layer: Layer) -> Iterator[str]:
    if isinstance(layer, Convolution | Linear):
        yield layer.name
    if isinstance(layer, Convolution) and layer.norm is not None:
        yield layer.norm


def _normalization(family: str) -> Normalization:
    return "inception" if family in _INCEPTIONS else "imagenet"


TIMM = Scheme(title="timm", names=_own)
TF_PORT = Scheme(
    title="timm's port of TensorFlow", names=_own, adapt=as_tensorflow, normalization=_normalization
)
