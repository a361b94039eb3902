"""Models small enough to compute by hand, and ranges of theirs that nobody measured."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from solid_colours import INFO, SIDE_PX
from solid_colours import PREPROCESSING as COLOURS_PREPROCESSING

from deploykit.networks.model_info import set_model_info
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics
from deploykit.util.atomic_files import file_sha256

# As floats, which is how a file returns them.
PREPROCESSING = replace(COLOURS_PREPROCESSING, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
BLOCKS = ("blocks.0", "blocks.1", "logits")
SOUND = {"input": 1.0, "blocks.0.relu": 1.0, "flat": 1.0}
"""Maximum of each tensor of colour_blocks on images; with these ranges nothing is clipped."""
MACS = {"blocks.0": 3 * 3 * SIDE_PX**2, "blocks.1": 3 * 3 * SIDE_PX**2, "logits": 3 * 3}


def two_convolutions(
    path: Path, *, batch: int | str = "n", weight: float = 1.0, between: str = "Relu"
) -> Path:
    """Write a 1x1 convolution of the image, an operator with output `r`, and another convolution of `r`."""
    weights = {
        "first": np.full((4, 3, 1, 1), weight, np.float32),
        "second": np.ones((2, 4, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["h"]),
        helper.make_node(between, ["h"], ["r"]),
        helper.make_node("Conv", ["r", "second"], ["y"]),
    ]
    return _write(path, nodes, weights, ("image", [batch, 3, 32, 32]), ("y", [batch, 2, 32, 32]))


def colour_blocks(path: Path, *, random: bool = False) -> Path:
    """Write a classifier whose logits are an image's mean red, green and blue; its blocks are identities."""
    eye = np.eye(3, dtype=np.float32)
    weights = {"w0": eye[:, :, None, None], "w1": eye[:, :, None, None], "w2": eye}
    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["blocks.0.conv"]),
        helper.make_node("Relu", ["blocks.0.conv"], ["blocks.0.relu"]),
        helper.make_node("Conv", ["blocks.0.relu", "w1"], ["blocks.1.conv"]),
        helper.make_node("Relu", ["blocks.1.conv"], ["blocks.1.relu"]),
        helper.make_node("GlobalAveragePool", ["blocks.1.relu"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w2"], ["logits"]),
    ]
    takes, gives = ("input", ["batch", 3, SIDE_PX, SIDE_PX]), ("logits", ["batch", 3])
    return _write(path, nodes, weights, takes, gives, info=True, random=random)


def colour_ranges(model: Path, reach: Mapping[str, float] = SOUND) -> Ranges:
    """Return ranges of colour_blocks from 0 to the given maxima; below 1 they clip."""
    return Ranges(
        onnx_sha256=file_sha256(model),
        preprocessing=PREPROCESSING,
        sources=("by hand",),
        images=1,
        method=CalibrationMethod(name="max"),
        statistics={name: TensorStatistics(low=0.0, high=high) for name, high in {**SOUND, **reach}.items()},
    )


def archive(path: Path, count: int, *, side_px: int = 32, seed: int = 0) -> Path:
    """Write an archive of images with random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side_px, side_px, 3)).astype(np.uint8)
    np.savez(path, images=pixels)
    return path


def _write(path, nodes, weights, takes, gives, *, info: bool = False, random: bool = False) -> Path:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(takes[0], TensorProto.FLOAT, takes[1])],
        [helper.make_tensor_value_info(gives[0], TensorProto.FLOAT, gives[1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if info:
        set_model_info(model, replace(INFO, weights="random") if random else INFO)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(model))
    return path
