"""Networks as TensorFlow computes them, for its checkpoints and ports of them.

References:
    TensorFlow, "Notes on padding in TensorFlow": SAME.
    tensorflow/tpu, efficientnet_builder.py, batch_norm_epsilon.
"""

from dataclasses import replace

from deploykit.networks.architecture.network import Convolution, Layer, MaxPool, Network

NORM_EPSILON = 1e-3


def with_tensorflow_arithmetic(network: Network) -> Network:
    """Return the network with SAME padding, which depends on the side, and TensorFlow's epsilon."""
    layers = tuple(_with_same_padding(layer, network) for layer in network.layers)
    return replace(network, layers=layers, norm_epsilon=NORM_EPSILON, same_padding=True)


def _with_same_padding(layer: Layer, network: Network) -> Layer:
    if not isinstance(layer, Convolution | MaxPool):
        return layer
    side, output_side = network.shapes[layer.inputs[0]][1], layer.output[1]
    padding = max((output_side - 1) * layer.stride + layer.kernel - side, 0)
    return replace(layer, padding=(padding // 2, padding - padding // 2))
