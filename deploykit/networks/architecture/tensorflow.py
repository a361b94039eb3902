"""Networks as TensorFlow computes them: what its checkpoints, and ports of them, were trained with.

References:
    TensorFlow, "Notes on padding in TensorFlow": SAME.
    tensorflow/tpu, efficientnet_builder.py, batch_norm_epsilon.
"""

from dataclasses import replace

from deploykit.networks.architecture.network import Convolution, Layer, MaxPool, Network

NORM_EPSILON = 1e-3


def with_tensorflow_arithmetic(network: Network) -> Network:
    """The same network with SAME padding, which depends on the side, and TensorFlow's epsilon."""
    layers = tuple(_same_padded(layer, network) for layer in network.layers)
    return replace(network, layers=layers, norm_epsilon=NORM_EPSILON, same_padding=True)


def _same_padded(layer: Layer, network: Network) -> Layer:
    if not isinstance(layer, Convolution | MaxPool):
        return layer
    taken, given = network.shapes[layer.inputs[0]][1], layer.output[1]
    missing = max((given - 1) * layer.stride + layer.kernel - taken, 0)
    return replace(layer, padding=(missing // 2, missing - missing // 2))
