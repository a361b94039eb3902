"""Estimate how much memory an engine needs: its weights, and the activations alive at the same time."""

from deploykit.networks.architecture.network import INPUT, Activation, Add, ChannelScale, Network
from deploykit.planning.cost_model.rates import ELEMENT_BYTES
from deploykit.util.types import Precision

# The kernel that computes their first input computes them too, or they overwrite that input.
_IN_PLACE = (Activation, Add, ChannelScale)


def estimate_memory_bytes(network: Network, *, stored: Precision, batch: int) -> int:
    """Return the size of the weights plus the largest total of activations between any two layers.

    A compiler's workspace is not included. An activation function, a residual sum and the product of
    squeeze-excite take the place of their first input.

    Args:
        network: The network to run.
        stored: Precision in which weights and activations are stored.
        batch: Images per batch.
    """
    home: dict[str, str] = {INPUT: INPUT}
    for layer in network.layers:
        home[layer.name] = home[layer.inputs[0]] if isinstance(layer, _IN_PLACE) else layer.name
    last_read = {home[INPUT]: 0}
    for index, layer in enumerate(network.layers):
        for name in (layer.name, *layer.inputs):
            last_read[home[name]] = index
    alive: dict[str, int] = {INPUT: _count_elements(network.input)}
    peak = 0
    for index, layer in enumerate(network.layers):
        place = home[layer.name]
        alive[place] = max(alive.get(place, 0), _count_elements(layer.output))
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last_read[name] > index}
    return ELEMENT_BYTES[stored] * (network.parameter_count + batch * peak)


def _count_elements(shape: tuple[int, int, int]) -> int:
    channels, height, width = shape
    return channels * height * width
