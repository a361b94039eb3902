"""The accuracy gate: move the costliest blocks back to float until top-1 is within the bound."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploykit.data.images.sampling import sample_evenly
from deploykit.data.images.selection import Images, OnSkipped, report_each_once
from deploykit.onnx_tools.ort_session import cpu_session, run_session
from deploykit.quantize.blocks import group_by_block
from deploykit.quantize.calibration.observer import images_per_run
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.placement import Placement
from deploykit.quantize.qdq import insert_qdq
from deploykit.quantize.sensitivity import measure_block_sensitivity
from deploykit.stats.accuracy_metrics import topk_hits
from deploykit.stats.proportion import is_within_chance, wilson_interval
from deploykit.util.array_types import Labels
from deploykit.util.errors import DeployError
from deploykit.util.progress import Progress, no_progress

if TYPE_CHECKING:
    from onnx import ModelProto

GATE_MIN_INT8_SHARE = 0.25
"""With a smaller fraction of the work in INT8 the model is no longer an INT8 model: the gate fails."""
_SENSITIVITY_IMAGES = 256

OpenSession = Callable[["ModelProto"], Any]
"""Opens an ONNX Runtime session that computes a Q/DQ model the way the built artifact will."""


def open_like_tensorrt(model: "ModelProto") -> Any:
    """Open a session with TensorRT's arithmetic: INT8 where the graph quantizes, float in between."""
    return cpu_session(model.SerializeToString(), fuse_int8=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """A placement that keeps top-1 within the bound.

    Attributes:
        top1_drop: Top-1 lost against FP32 on the gate's images, points.
        initial_top1_drop: The same before any block was moved to float.
        images: How many images the gate measured on.
        float_blocks: Blocks that were moved to float, the costliest first.
        macs_share: Fraction of the model's multiply-accumulates that this moved from INT8 to float.
    """

    placement: Placement
    top1_drop: float
    initial_top1_drop: float
    images: int
    float_blocks: tuple[str, ...]
    macs_share: float


def apply_accuracy_gate(
    model: "ModelProto",
    placement: Placement,
    ranges: Ranges,
    images: Images,
    *,
    max_drop: float,
    open_session: OpenSession = open_like_tensorrt,
    on_skipped: OnSkipped | None = None,
    progress: Progress = no_progress,
) -> GateResult:
    """Move blocks to float, the costliest first, until top-1 drops by at most max_drop.

    Args:
        model: The FP32 model.
        images: Labelled images.
        max_drop: Allowed drop of top-1 against FP32, points.
        open_session: How to run the quantized model.
        on_skipped: Called for each unreadable image, which is then skipped; None raises instead.

    Raises:
        DeployError: The images have no labels or other classes, FP32 itself may be guessing on them, or the
            bound can't be met.
    """
    on_skipped = report_each_once(on_skipped) if on_skipped else None
    measurement = _DropMeasurement(
        model, ranges, images, open_session, on_skipped=on_skipped, progress=progress
    )
    initial_drop = drop = measurement.measure(placement)
    float_blocks: list[str] = []
    remaining = placement
    candidates: list[str] = []
    if drop > max_drop:
        sensitivity = measure_block_sensitivity(
            model, placement, ranges, _sample(images), on_skipped=on_skipped, progress=progress
        )
        candidates = [cost.block for cost in sensitivity.blocks]  # the costliest first
    while drop > max_drop:
        if not candidates:
            raise _failure(max_drop, drop, float_blocks)
        float_blocks.append(candidates.pop(0))
        remaining = placement.without(
            name for block in float_blocks for name in group_by_block(placement.outputs)[block]
        )
        if remaining.int8_share < GATE_MIN_INT8_SHARE:
            raise _failure(max_drop, drop, float_blocks[:-1])
        drop = measurement.measure(remaining)
    return GateResult(
        placement=remaining,
        top1_drop=drop,
        initial_top1_drop=initial_drop,
        images=measurement.images_read,
        float_blocks=tuple(float_blocks),
        macs_share=placement.int8_share - remaining.int8_share,
    )


class _DropMeasurement:
    """Measures the top-1 drop of placements, all on the same images.

    Attributes:
        images_read: How many images could be read.
    """

    def __init__(
        self,
        model: "ModelProto",
        ranges: Ranges,
        images: Images,
        open_session: OpenSession,
        *,
        on_skipped: OnSkipped | None,
        progress: Progress,
    ) -> None:
        self._open_session = open_session
        self._model, self._ranges, self._images = model, ranges, images
        self._on_skipped, self._progress = on_skipped, progress
        self._labels = require_labels(images)
        self._fp32_top1 = self._top1(open_like_tensorrt(model), "FP32")
        self._require_better_than_guessing()

    def measure(self, placement: Placement) -> float:
        """Return the points of top-1 that the placement loses."""
        quantized = insert_qdq(self._model, placement, self._ranges)
        # Rounded, so that 3 images of 1000 are 0.3 points and not slightly more.
        return round(100 * (self._fp32_top1 - self._top1(self._open_session(quantized), "INT8")), 9)

    def _top1(self, session: Any, precision: str) -> float:
        correct = self.images_read = 0
        size = images_per_run(self._images.preprocessing.side_px)
        for batch in self._images.batches(size, on_skipped=self._on_skipped):
            logits = run_session(session, batch.inputs)[0]
            self._images.require_classes(logits.shape[1], "the model")
            correct += int(topk_hits(logits, self._labels[batch.indices]).sum())
            self.images_read += len(logits)
            self._num_classes = logits.shape[1]
            self._progress(f"measuring top-1 of {precision}", int(batch.indices[-1]) + 1, self._images.count)
        return correct / self.images_read

    def _require_better_than_guessing(self) -> None:
        estimate = wilson_interval(round(self._fp32_top1 * self.images_read), self.images_read)
        if is_within_chance(estimate, images=self.images_read, classes=self._num_classes):
            raise DeployError(
                f"FP32 has a top-1 of only {100 * estimate.value:.1f} % on {self._images.source}, which may "
                "be guessing, so its drop says nothing.",
                code="gate-reference-too-weak",
                fix="number the classes like the model's outputs (folders count in alphabetical order), or "
                "remove --eval",
            )


def _sample(images: Images) -> Images:
    """Return a few hundred of the images, evenly spread over all classes."""
    return images.subset(sample_evenly(images.count, min(_SENSITIVITY_IMAGES, images.count), images.labels))


def require_labels(images: Images) -> Labels:
    """Return the labels of images.

    Raises:
        DeployError: They have none.
    """
    if images.labels is None:
        raise DeployError(
            f"{images.source} has no labels to measure top-1 with.",
            code="images-unlabelled",
            fix="give --eval a folder with one subfolder per class, or an .npz with labels",
        )
    return images.labels


def _failure(max_drop: float, drop: float, float_blocks: list[str]) -> DeployError:
    return DeployError(
        f"Top-1 still drops by {drop:.2f} points, more than the allowed {max_drop:g}, with the "
        f"{len(float_blocks)} costliest blocks in float; with one more, less than "
        f"{100 * GATE_MIN_INT8_SHARE:g} % of the work would be in INT8.",
        code="gate-failed",
        fix="calibrate on more images of this kind, allow a larger --max-drop, or build in FP16",
    )
