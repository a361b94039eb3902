"""How much memory an engine takes: its weights, and the activations alive at once."""

from deploykit.networks.architecture.network import INPUT, Activation, Add, ChannelScale, Network
from deploykit.planning.cost_model.cost_model import ELEMENT_BYTES
from deploykit.util.types import Precision

_IN_PLACE = (Activation, Add, ChannelScale)  # computed by the kernel that makes their first input, or over it


def estimated_bytes(network: Network, *, stored: Precision, batch: int) -> int:
    """Weights, and the most that activations take between any two layers; without a compiler's workspace.

    An activation, a residual sum and squeeze-excite's product take the place of their first input.

    Args: stored: the precision that weights and activations are kept in.
    """
    home: dict[str, str] = {INPUT: INPUT}
    for layer in network.layers:
        home[layer.name] = home[layer.inputs[0]] if isinstance(layer, _IN_PLACE) else layer.name
    last_read = {home[INPUT]: 0}
    for at, layer in enumerate(network.layers):
        for name in (layer.name, *layer.inputs):
            last_read[home[name]] = at
    alive: dict[str, int] = {INPUT: _elements(network.input)}
    most = 0
    for at, layer in enumerate(network.layers):
        place = home[layer.name]
        alive[place] = max(alive.get(place, 0), _elements(layer.output))
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last_read[name] > at}
    return ELEMENT_BYTES[stored] * (network.parameter_count + batch * most)


def _elements(shape: tuple[int, int, int]) -> int:
    channels, height, width = shape
    return channels * height * width
