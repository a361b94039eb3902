"""ONNX of what feature pyramids and detectors have besides: fusion, levels, anchors."""

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
    layer: Layer, inputs: list[str], network: Network, state: StateDict, written: LayerNodes
) -> None:
    """Writes the layer.

    Args:
        inputs: the tensors it reads.
    """
    match layer:
        case Upsample():
            _upsample(layer, inputs[0], network.shapes[layer.inputs[0]][1], written)
        case WeightedSum():
            _weighted_sum(layer, inputs, state, written)
        case PerAnchor():
            moved = written.step("Transpose", inputs, "channels_last", perm=[0, 2, 3, 1])
            shape = written.constant("shape", (0, *layer.output[:2]), np.int64)
            written.step("Reshape", [moved, shape])
        case Concat():
            written.step("Concat", inputs, axis=1)
        case DecodeBoxes():
            _decode(layer, inputs[0], written.in_fp32())
        case _:
            raise NotImplementedError(type(layer).__name__)


def _upsample(layer: Upsample, x: str, side: int, written: LayerNodes) -> None:
    is_whole = layer.output[1] == 2 * side
    doubled = written.step(
        "Resize",
        [x, "", written.constant("scales", (1, 1, 2, 2))],
        None if is_whole else "doubled",
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    if not is_whole:
        start = written.constant("start", (0, 0), np.int64)
        end = written.constant("end", layer.output[1:], np.int64)
        axes = written.constant("axes", (2, 3), np.int64)
        written.step("Slice", [doubled, start, end, axes])


def _weighted_sum(layer: WeightedSum, inputs: list[str], state: StateDict, written: LayerNodes) -> None:
    factors = fusion_factors(layer, state)
    terms = inputs
    if factors is not None:
        terms = [
            written.step("Mul", [x, written.constant(f"factor.{at}", factor)], f"term.{at}")
            for at, (x, factor) in enumerate(zip(inputs, factors, strict=True))
        ]
    total, *others = terms
    for at, term in enumerate(others, 1):
        is_last = at == len(others)
        total = written.step("Add", [total, term], None if is_last else f"sum.{at}")


def _decode(layer: DecodeBoxes, codes: str, written: LayerNodes) -> None:
    """As networks.torch_module decodes."""
    anchors = layer.anchors.boxes()
    sizes = written.constant("anchor_sizes", anchors[:, 2:])
    # What is predicted is y before x, and height before width.
    offsets = written.step("Gather", [codes, written.constant("xy", (1, 0), np.int64)], "offsets", axis=2)
    logs = written.step("Gather", [codes, written.constant("wh", (3, 2), np.int64)], "logs", axis=2)
    moved = written.step("Mul", [offsets, sizes], "moved")
    centres = written.step("Add", [moved, written.constant("anchor_centres", anchors[:, :2])], "centres")
    halves = written.constant("half_anchor_sizes", anchors[:, 2:] / 2)
    half = written.step("Mul", [written.step("Exp", [logs], "factors"), halves], "half_sizes")
    low, high = written.step("Sub", [centres, half], "low"), written.step("Add", [centres, half], "high")
    written.step("Concat", [low, high], axis=2)
