"""Streams images through a model and measures the activations that will be quantized."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.errors import DeployError
from deploykit.files import require_writable, sha256_of
from deploykit.model_file import image_side_px, info_of, read_model
from deploykit.quantize.histogram import Histogram
from deploykit.quantize.images import Images, open_images
from deploykit.quantize.placement import pointwise
from deploykit.quantize.ranges import DEFAULT_PERCENTILE, Method, Ranges
from deploykit.sessions import cpu_session
from deploykit.workspace import find_model, model_name, ranges_path

BATCH = 8
DEFAULT_IMAGES = 512

Progress = Callable[[int, int], None]
"""Called with the number of images done, and of all."""


def calibrate_to_file(
    data: str | Path,
    *,
    phi: float | None = None,
    onnx: Path | None = None,
    limit: int = DEFAULT_IMAGES,
    method: Method = "percentile",
    percentile: float = DEFAULT_PERCENTILE,
    output: Path | None = None,
    note: Callable[[str], None] = lambda sentence: None,
    progress: Progress = lambda done, total: None,
) -> tuple[Path, Ranges]:
    """Calibrates an exported model and writes its ranges, by default into calibration/.

    Args:
        data: see images.open_images.
        phi, onnx: which model, see workspace.find_model.
        limit: at most this many images.

    Raises:
        DeployError: bad input; nothing is written.
    """
    model, chosen = find_model(phi=phi, onnx=onnx)
    if chosen is not None:
        note(chosen)
    info = info_of(read_model(model))
    path = output or ranges_path(model, model_name(info.family, info.phi, info.rule))
    require_writable(path, inputs=(model,))
    images = open_images(data, info.preprocessing, limit=limit)
    ranges = calibrate(model, images, method=method, percentile=percentile, progress=progress)
    ranges.save(path)
    return path, ranges


def calibrate(
    model: Path,
    images: Images,
    *,
    method: Method = "percentile",
    percentile: float = DEFAULT_PERCENTILE,
    progress: Progress = lambda done, total: None,
) -> Ranges:
    """Ranges of every activation the placement quantizes, over all the images.

    Args:
        model: an FP32 ONNX file.
        percentile: percent of magnitudes to keep, above 50, at most 100.

    Raises:
        DeployError: unreadable images, or activations that are not finite.
    """
    from onnx import helper

    if not 50 < percentile <= 100:  # true for NaN too
        raise DeployError(f"A percentile of {percentile:g} is no range.", fix="give --percentile 99.99, say")
    graph = read_model(model)
    image_side_px(graph)  # or it can't be fed
    tensors = list(dict.fromkeys(node.activation for node in pointwise(graph)))
    if not tensors:
        raise DeployError(f"{model} has no pointwise convolution or linear layer.", fix="build it as FP16")
    already = {value.name for value in graph.graph.output}
    graph.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in tensors if name not in already
    )
    session = cpu_session(graph.SerializeToString())
    (image_input,) = session.get_inputs()
    histograms = {name: Histogram() for name in tensors}
    done = 0
    for batch in images.batches(BATCH):
        for name, values in zip(tensors, session.run(tensors, {image_input.name: batch}), strict=True):
            _count(histograms[name], name, values)
        done += len(batch)
        progress(done, images.count)
    return Ranges(
        onnx_sha256=sha256_of(model),
        method=method,
        percentile=percentile,
        source=images.source,
        images=images.count,
        histograms=histograms,
    )


def _count(histogram: Histogram, name: str, values: npt.NDArray[np.float32]) -> None:
    try:
        histogram.add(values)
    except ValueError as error:
        raise DeployError(
            f"The activations {name} are not finite on these images.",
            fix="look for NaN or Inf in the weights",
        ) from error
