"""Checking an ONNX model against the torch module of the same network."""

from dataclasses import dataclass

import numpy as np

from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.weights import Weights
from deploykit.onnx_tools.model_io import INPUT_NAME
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.util.array_types import Float32Array
from deploykit.util.lazy_import import require

_CHECKED_IMAGES = 2  # more than one, to detect a batch size fixed by mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """The largest difference between two outputs.

    Attributes:
        absolute: In the output's units.
        relative: As a fraction of the reference's largest magnitude.
    """

    absolute: float
    relative: float


def difference_from_torch(model: bytes, network: Network, weights: Weights) -> OutputDifference:
    """Run an ONNX model in ONNX Runtime and the torch module on the same random images.

    Args:
        model: The serialized ONNX model.
        network: The network it was written from.
        weights: Its parameters.

    Returns:
        The difference; for several outputs, that of the output with the largest relative difference.
    """
    torch = require("torch")
    from deploykit.networks.torch_module import build_module

    images = np.random.default_rng(0).standard_normal((_CHECKED_IMAGES, *network.input), np.float32)
    with torch.inference_mode():
        expected = build_module(network, weights).named_outputs(torch.from_numpy(images))
    actual = cpu_session(model).run(list(expected), {INPUT_NAME: images})
    return max(
        (
            _compare_outputs(output, reference.numpy())
            for output, reference in zip(actual, expected.values(), strict=True)
        ),
        key=lambda difference: difference.relative,
    )


def _compare_outputs(actual: Float32Array, expected: Float32Array) -> OutputDifference:
    absolute, magnitude = float(np.abs(actual - expected).max()), float(np.abs(expected).max())
    return OutputDifference(absolute=absolute, relative=absolute / magnitude if magnitude else absolute)
