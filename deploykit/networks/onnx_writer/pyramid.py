"""ONNX of layers that only feature pyramids and detectors have: fusion, levels, anchors."""

import numpy as np

from deploykit.networks.architecture.network import (
    Concat,
    DecodeBoxes,
    Layer,
    Network,
    PerAnchor,
    Upsample,
    WeightedSum,
)
from deploykit.networks.checkpoints.weights import StateDict
from deploykit.networks.onnx_writer.nodes import LayerNodes
from deploykit.networks.weight_folding import fusion_factors


def add_pyramid_nodes(
    layer: Layer, inputs: list[str], network: Network, state: StateDict, nodes: LayerNodes
) -> None:
    """Append the nodes of a pyramid layer.

    Args:
        layer: The layer.
        inputs: Names of its input tensors.
        network: The network it belongs to.
        state: The network's parameters.
        nodes: Where to append.
    """
    match layer:
        case Upsample():
            _upsample(layer, inputs[0], network.shapes[layer.inputs[0]][1], nodes)
        case WeightedSum():
            _weighted_sum(layer, inputs, state, nodes)
        case PerAnchor():
            transposed = nodes.add_node("Transpose", inputs, "channels_last", perm=[0, 2, 3, 1])
            shape = nodes.add_constant("shape", (0, *layer.output[:2]), np.int64)
            nodes.add_node("Reshape", [transposed, shape])
        case Concat():
            nodes.add_node("Concat", inputs, axis=1)
        case DecodeBoxes():
            _decode(layer, inputs[0], nodes.in_fp32())
        case _:
            raise NotImplementedError(type(layer).__name__)


def _upsample(layer: Upsample, x: str, side: int, nodes: LayerNodes) -> None:
    is_double = layer.output[1] == 2 * side
    doubled = nodes.add_node(
        "Resize",
        [x, "", nodes.add_constant("scales", (1, 1, 2, 2))],
        None if is_double else "doubled",
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    if not is_double:
        start = nodes.add_constant("start", (0, 0), np.int64)
        end = nodes.add_constant("end", layer.output[1:], np.int64)
        axes = nodes.add_constant("axes", (2, 3), np.int64)
        nodes.add_node("Slice", [doubled, start, end, axes])


def _weighted_sum(layer: WeightedSum, inputs: list[str], state: StateDict, nodes: LayerNodes) -> None:
    factors = fusion_factors(layer, state)
    terms = inputs
    if factors is not None:
        terms = [
            nodes.add_node("Mul", [x, nodes.add_constant(f"factor.{at}", factor)], f"term.{at}")
            for at, (x, factor) in enumerate(zip(inputs, factors, strict=True))
        ]
    total, *others = terms
    for at, term in enumerate(others, 1):
        is_last = at == len(others)
        total = nodes.add_node("Add", [total, term], None if is_last else f"sum.{at}")


def _decode(layer: DecodeBoxes, codes: str, nodes: LayerNodes) -> None:
    """Append the decoding of boxes, as in networks.torch_module."""
    anchors = layer.anchors.boxes()
    sizes = nodes.add_constant("anchor_sizes", anchors[:, 2:])
    # Predictions have y before x, and height before width.
    offsets = nodes.add_node("Gather", [codes, nodes.add_constant("xy", (1, 0), np.int64)], "offsets", axis=2)
    logs = nodes.add_node("Gather", [codes, nodes.add_constant("wh", (3, 2), np.int64)], "logs", axis=2)
    shift = nodes.add_node("Mul", [offsets, sizes], "shift")
    centres = nodes.add_node("Add", [shift, nodes.add_constant("anchor_centres", anchors[:, :2])], "centres")
    halves = nodes.add_constant("half_anchor_sizes", anchors[:, 2:] / 2)
    half = nodes.add_node("Mul", [nodes.add_node("Exp", [logs], "factors"), halves], "half_sizes")
    low, high = nodes.add_node("Sub", [centres, half], "low"), nodes.add_node("Add", [centres, half], "high")
    nodes.add_node("Concat", [low, high], axis=2)
