"""Images and an exported model -> its activation ranges."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploykit.data.images.generated import GENERATED
from deploykit.data.images.open import DEFAULT_IMAGES
from deploykit.data.images.sampling import sample_evenly
from deploykit.data.images.selection import Images, OnSkipped, report_each_once
from deploykit.networks.model_info import input_side_px, read_model_info
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.calibration.activations import measure_activations
from deploykit.quantize.calibration.checkpoint import CalibrationCheckpoint
from deploykit.quantize.calibration.methods import CalibrationMethod, named_method
from deploykit.quantize.calibration.observer import images_per_run
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics
from deploykit.quantize.method_search import choose_method
from deploykit.quantize.placement import Placement, place_all_int8, place_int8
from deploykit.util.atomic_files import file_sha256
from deploykit.util.errors import DeployError
from deploykit.util.progress import Note, Progress, ignore_note, no_progress

if TYPE_CHECKING:
    from onnx import ModelProto

# How many images `auto` holds out to compare methods on: fewer of large images, which take long, and at most
# a quarter of all.
_HELD_OUT_PIXELS = 32 * 224**2
_MIN_HELD_OUT, _MAX_HELD_OUT = 16, 64
_MIN_IMAGES_TO_SPLIT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """How to calibrate.

    Attributes:
        method: How to read ranges off the statistics; None for `auto`.
        skip_bad: Skip unreadable images instead of stopping at the first.
        note: Receives what the user should know.
        progress: Receives progress.
    """

    method: CalibrationMethod | None = None
    skip_bad: bool = False
    note: Note = ignore_note
    progress: Progress = no_progress

    def skip_callback(self) -> OnSkipped:
        """Return a callback that notes each skipped image once."""
        return report_each_once(lambda error: self.note(f"Skipped: {error.problem}"))


def calibrate(
    model: Path,
    images: Images,
    settings: CalibrationSettings,
    *,
    graph: "ModelProto | None" = None,
    checkpoint: CalibrationCheckpoint | None = None,
) -> Ranges:
    """Measure the range of every activation that a policy may put in INT8.

    Args:
        model: An FP32 ONNX file.
        graph: The content of that file, if it has been read already.
        checkpoint: Where to save progress; None to save none.

    Raises:
        DeployError: An image is unreadable, or an activation is not finite.
    """
    graph = graph or read_model(model)
    input_side_px(graph)  # fails if the model can't take images
    if images.source == GENERATED and read_model_info(graph).weights != "random":
        settings.note("Calibrating on generated images: expect less accuracy than with --data DIR.")
    if images.count < images.requested:
        wanted = "recommended" if images.requested == DEFAULT_IMAGES else "requested"
        settings.note(f"Using all {images.count} images of {images.source} ({images.requested} {wanted}).")
    measured, held_out = _split(images) if settings.method is None else (images, images)
    if settings.method is None and images.count < _MIN_IMAGES_TO_SPLIT:
        settings.note("Comparing methods on the calibration images themselves: too few to hold any out.")
    on_skipped = settings.skip_callback() if settings.skip_bad else None
    ranges = measure_activations(
        graph,
        measured,
        _empty_ranges(graph, file_sha256(model), images, settings.method),
        checkpoint=checkpoint,
        note=settings.note,
        progress=settings.progress,
        on_skipped=on_skipped,
    )
    if settings.method is not None:
        return ranges
    if checkpoint is not None:  # comparing methods is slow too
        checkpoint.save(measured, measured.count, ranges)
    size = images_per_run(images.preprocessing.side_px)
    try:
        return choose_method(
            graph,
            _largest_placement(graph),
            ranges,
            [batch.inputs for batch in held_out.batches(size, on_skipped=on_skipped)],
            progress=settings.progress,
        )
    except KeyboardInterrupt:
        if checkpoint is not None:
            settings.note("Stopped after all images were counted; run the same command to continue.")
        raise


def _empty_ranges(
    model: "ModelProto", onnx_sha256: str, images: Images, method: CalibrationMethod | None
) -> Ranges:
    return Ranges(
        onnx_sha256=onnx_sha256,
        preprocessing=images.preprocessing,
        sources=(images.source,),
        images=0,
        method=method or named_method("percentile"),
        statistics={name: TensorStatistics() for name in place_all_int8(model).tensors},
    )


def _split(images: Images) -> tuple[Images, Images]:
    """Return images to measure ranges on, and images to compare methods on.

    If there are too few to split, both are all images.
    """
    if images.count < _MIN_IMAGES_TO_SPLIT:
        return images, images
    wanted = min(max(_HELD_OUT_PIXELS // images.preprocessing.side_px**2, _MIN_HELD_OUT), _MAX_HELD_OUT)
    held_out = sample_evenly(images.count, min(wanted, images.count // 4), images.labels)
    return images.subset(np.setdiff1d(np.arange(images.count), held_out)), images.subset(held_out)


def _largest_placement(model: "ModelProto") -> Placement:
    """Return the placement in which methods are compared and noise is measured.

    It covers activations of all sizes.
    """
    try:
        return place_int8(model, "bandwidth")
    except DeployError:  # there is no convolution on feature maps
        return place_int8(model, "all-conv")
