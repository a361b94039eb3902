"""What each block of a model costs in INT8: the model with that block alone in INT8, against FP32."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.data.images.open import open_images
from deploykit.data.images.selection import Images, OnSkipped
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.networks.model_info import class_count, read_model_info, require_fp32
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.blocks import by_block
from deploykit.quantize.calibrate import CalibrationSettings, Progress
from deploykit.quantize.calibration.observer import images_per_run
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.find_ranges import load_or_measure_ranges
from deploykit.quantize.output_error import output_errors, run_quantized, run_reference
from deploykit.quantize.placement import DEFAULT_POLICY, Placement, Policy, place
from deploykit.stats.accuracy_metrics import sqnr_db, top1

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """What one block costs.

    Attributes:
        block: its name; `all` for everything in INT8 at once.
        macs_share: part of the model's multiply-accumulates that it has in INT8.
        sqnr_db: of the logits, over all images, or the worst output's; None where they are the same.
        error: mean over images of the outputs' bounded relative error, see output_error.errors_of;
            blocks are sorted by it, since one image with huge logits would decide the SQNR alone.
        top1_change: in points, against FP32; None without labels.
    """

    block: str
    macs_share: float
    sqnr_db: float | None
    error: float
    top1_change: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What every block of a model costs.

    Attributes:
        images: how many it was measured on.
        top1: of the FP32 model, from 0 to 1; None without labels.
        whole: everything in INT8.
        blocks: one at a time, the costliest first.
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
    note: Callable[[str], None] = lambda sentence: None,
    progress: Progress = lambda what, done, total: None,
) -> Sensitivity:
    """What each block of a model costs in INT8, the costliest first.

    Args:
        model: an FP32 ONNX file.
        data: see data.images.open.open_images; without labels, top-1 is left out.
        images: at most this many.
        ranges: default this model's in calibration/; where there are none, they are measured on data.

    Raises:
        DeployError: bad input.
    """
    path = Path(model)
    graph = read_model(path)
    info = read_model_info(graph)
    require_fp32(path, info)
    placement = place(graph, policy)
    supply = open_images(data, info.preprocessing, limit=images, overrides=overrides)
    if classes := class_count(graph):
        supply.require_classes(classes, path)
    settings = CalibrationSettings(skip_bad=skip_bad, note=note, progress=progress)
    found = load_or_measure_ranges(path, ranges, supply, settings, overrides)
    return measure_block_sensitivity(
        graph,
        placement,
        found,
        replace(supply, preprocessing=found.preprocessing),
        on_skipped=settings.on_skipped() if skip_bad else None,
        progress=lambda done, total: progress("blocks", done, total),
    )


def measure_block_sensitivity(
    model: "ModelProto",
    placement: Placement,
    ranges: Ranges,
    images: Images,
    *,
    on_skipped: OnSkipped | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sensitivity:
    """Runs the model once for each block of the placement, over all the images.

    Args:
        model: FP32.
        images: kept in memory as network inputs: a few hundred at most.
        progress: called with the blocks done, and of all.

    Raises:
        DeployError: unreadable images, or ranges that lack a tensor of the placement.
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
    blocks = by_block(placement.outputs)

    def cost(block: str, outputs: tuple[str, ...]) -> BlockCost:
        made = run_quantized(model, placement.only(outputs), ranges, inputs, reference)
        decibels = min(map(_sqnr_db, made, reference.outputs))
        macs = sum(node.macs for node in placement.products if node.output in outputs)
        return BlockCost(
            block=block,
            macs_share=macs / placement.macs,
            sqnr_db=decibels if math.isfinite(decibels) else None,
            error=float(output_errors(made, reference).mean()),
            top1_change=None
            if labels is None or reference_top1 is None
            else 100 * (top1(made[0], labels) - reference_top1),
        )

    whole = cost("all", placement.outputs)
    costs = _counted((cost(*each) for each in blocks.items()), len(blocks), progress)
    return Sensitivity(
        images=len(reference.outputs[0]),
        top1=reference_top1,
        whole=whole,
        blocks=tuple(sorted(costs, key=lambda each: -each.error)),
    )


def _sqnr_db(output: Array, reference: Array) -> float:
    return sqnr_db(output.reshape(len(output), -1), reference.reshape(len(reference), -1))


def _counted(
    costs: Iterator[BlockCost], total: int, progress: Callable[[int, int], None]
) -> Iterator[BlockCost]:
    for done, each in enumerate(costs, 1):
        progress(done, total)
        yield each
