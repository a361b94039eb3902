"""A network of two layers with parameters."""

from deploykit.networks.architecture.builder import NetworkBuilder
from deploykit.networks.architecture.network import Network


def small_network() -> Network:
    """Build a network of a convolution with batch norm and a classifier of five classes."""
    net = NetworkBuilder(8)
    net.conv("stem", 4, kernel=3, norm="bn")
    net.activation("relu")
    net.global_average_pool("pool")
    net.linear("head", 5)
    return net.network("small")
