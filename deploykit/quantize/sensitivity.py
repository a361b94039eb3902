"""What each block of a model costs in INT8: the model with only that block in INT8, against FP32."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploykit.data.images.open import open_images
from deploykit.data.images.selection import Images, OnSkipped
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.networks.model_info import count_classes, read_model_info, require_fp32
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.blocks import group_by_block
from deploykit.quantize.calibrate import CalibrationSettings
from deploykit.quantize.calibration.observer import images_per_run
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.find_ranges import load_or_measure_ranges
from deploykit.quantize.output_error import output_errors, run_quantized, run_reference
from deploykit.quantize.placement import DEFAULT_POLICY, Placement, Policy, place_int8
from deploykit.stats.accuracy_metrics import sqnr_db, top1
from deploykit.util.array_types import Float32Array
from deploykit.util.progress import Note, Progress, ignore_note, no_progress

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """The cost of one block in INT8.

    Attributes:
        block: Its name; `all` for everything in INT8 at once.
        macs_share: Fraction of the model's multiply-accumulates that it has in INT8.
        sqnr_db: SQNR of the logits over all images, or of the worst output; None if they are identical.
        error: Mean over images of the bounded relative output error, see output_error.output_errors.
            Blocks are sorted by it, because one image with huge logits would decide the SQNR alone.
        top1_change: Change of top-1 against FP32, points; None without labels.
    """

    block: str
    macs_share: float
    sqnr_db: float | None
    error: float
    top1_change: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The cost of every block of a model in INT8.

    Attributes:
        images: How many images it was measured on.
        top1: Top-1 of the FP32 model, from 0 to 1; None without labels.
        whole: The cost of everything in INT8.
        blocks: The cost of one block at a time, the costliest first.
    """

    images: int
    top1: float | None
    whole: BlockCost
    blocks: tuple[BlockCost, ...]


def measure_sensitivity(
    model: str | Path,
    data: str | Path,
    *,
    images: int | None = 256,
    ranges: str | Path | None = None,
    policy: Policy = DEFAULT_POLICY,
    skip_bad: bool = False,
    overrides: Overrides = NO_OVERRIDES,
    note: Note = ignore_note,
    progress: Progress = no_progress,
) -> Sensitivity:
    """Measure what each block of a model costs in INT8.

    Args:
        model: An FP32 ONNX file.
        data: See data.images.open.open_images; without labels top-1 is omitted.
        images: Largest number of images.
        ranges: A ranges file; default the newest of this model in calibration/, or else measured on data.
        policy: Which layers count.
        skip_bad: Skip unreadable images, and note which.
        overrides: Preprocessing that differs from the model's.

    Raises:
        DeployError: The input is invalid.
    """
    path = Path(model)
    graph = read_model(path)
    info = read_model_info(graph)
    require_fp32(path, info)
    placement = place_int8(graph, policy)
    supply = open_images(data, info.preprocessing, limit=images, overrides=overrides)
    if classes := count_classes(graph):
        supply.require_classes(classes, path)
    settings = CalibrationSettings(skip_bad=skip_bad, note=note, progress=progress)
    known = load_or_measure_ranges(path, ranges, supply, settings, overrides)
    return measure_block_sensitivity(
        graph,
        placement,
        known,
        replace(supply, preprocessing=known.preprocessing),
        on_skipped=settings.skip_callback() if skip_bad else None,
        progress=progress,
    )


def measure_block_sensitivity(
    model: "ModelProto",
    placement: Placement,
    ranges: Ranges,
    images: Images,
    *,
    on_skipped: OnSkipped | None = None,
    progress: Progress = no_progress,
) -> Sensitivity:
    """Run the model once for each block of the placement, over all the images.

    Args:
        model: The FP32 model.
        images: Kept in memory as network inputs, so at most a few hundred.
        on_skipped: Called for each unreadable image, which is then skipped; None raises instead.

    Raises:
        DeployError: An image is unreadable, or the ranges lack a tensor of the placement.
    """
    batches = list(images.batches(images_per_run(images.preprocessing.side_px), on_skipped=on_skipped))
    inputs = [batch.inputs for batch in batches]
    reference = run_reference(model, inputs)
    logits = reference.outputs[0] if reference.is_classifier else None
    labels = None
    if images.labels is not None and logits is not None:
        labels = images.labels[np.concatenate([b.indices for b in batches])]
        images.require_classes(logits.shape[1], "the model")
    reference_top1 = None if labels is None or logits is None else top1(logits, labels)

    def cost(block: str, outputs: tuple[str, ...]) -> BlockCost:
        quantized = run_quantized(model, placement.only(outputs), ranges, inputs, reference)
        decibels = min(map(_sqnr_db, quantized, reference.outputs))
        macs = sum(node.macs for node in placement.products if node.output in outputs)
        return BlockCost(
            block=block,
            macs_share=macs / placement.macs,
            sqnr_db=decibels if math.isfinite(decibels) else None,
            error=float(output_errors(quantized, reference).mean()),
            top1_change=None
            if labels is None or reference_top1 is None
            else 100 * (top1(quantized[0], labels) - reference_top1),
        )

    whole = cost("all", placement.outputs)
    blocks = group_by_block(placement.outputs)
    costs: list[BlockCost] = []
    for block, outputs in blocks.items():
        costs.append(cost(block, outputs))
        progress("measuring blocks", len(costs), len(blocks))
    return Sensitivity(
        images=len(reference.outputs[0]),
        top1=reference_top1,
        whole=whole,
        blocks=tuple(sorted(costs, key=lambda each: -each.error)),
    )


def _sqnr_db(output: Float32Array, reference: Float32Array) -> float:
    return sqnr_db(output.reshape(len(output), -1), reference.reshape(len(reference), -1))
