"""The accuracy gate: blocks go back to float, the costliest first, until top-1 is within the bound."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploykit.data.images.sampling import sample_evenly
from deploykit.data.images.selection import Images, OnSkipped, report_each_once
from deploykit.onnx_tools.ort_session import cpu_session, run
from deploykit.quantize.blocks import by_block
from deploykit.quantize.calibration.observer import images_per_run
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.placement import Placement
from deploykit.quantize.qdq import insert_qdq
from deploykit.quantize.sensitivity import measure_block_sensitivity
from deploykit.stats.accuracy_metrics import topk_hits
from deploykit.stats.proportion import is_within_chance, wilson_interval
from deploykit.util.array_types import Labels
from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from onnx import ModelProto

GATE_MIN_INT8_SHARE = 0.25
"""With less than this part of the work in INT8 it is no INT8 model any more: the bound can't be met."""
_SENSITIVITY_IMAGES = 256

Progress = Callable[[str, int, int], None]
OpenSession = Callable[["ModelProto"], Any]
"""Opens an ONNX Runtime session that computes what will be built of a model with Q/DQ."""


def open_like_tensorrt(model: "ModelProto") -> Any:
    """INT8 where the graph rounds, float between: the arithmetic TensorRT does."""
    return cpu_session(model.SerializeToString(), fuse_int8=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """A placement that keeps top-1 within the bound.

    Attributes:
        drop: top-1 lost against FP32, in points, on the gate's images.
        first_drop: with nothing excluded.
        images: how many they are.
        excluded: blocks left in float for it, the costliest first.
        macs_share: what they are of the model's multiply-accumulates that would have been in INT8.
    """

    placement: Placement
    drop: float
    first_drop: float
    images: int
    excluded: tuple[str, ...]
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
    progress: Progress = lambda what, done, total: None,
) -> GateResult:
    """The placement less as many blocks as it takes.

    Args:
        model: FP32.
        images: labelled.
        max_drop: of top-1 against FP32, in points.
        on_skipped: told of unreadable images, which are then left out; None raises instead.

    Raises:
        DeployError: images without labels, with other classes, or on which FP32 itself may be guessing; or a
            bound that can't be met.
    """
    on_skipped = report_each_once(on_skipped) if on_skipped else None
    gate = _Gate(model, ranges, images, open_session, on_skipped=on_skipped, progress=progress)
    first_drop = drop = gate.drop(placement)
    excluded: list[str] = []
    left = placement
    order: list[str] = []
    if drop > max_drop:
        costs = measure_block_sensitivity(
            model,
            placement,
            ranges,
            _some(images),
            on_skipped=on_skipped,
            progress=lambda done, total: progress("blocks", done, total),
        )
        order = [cost.block for cost in costs.blocks]  # the costliest first
    while drop > max_drop:
        if not order:
            raise _unmet(max_drop, drop, excluded)
        excluded.append(order.pop(0))
        left = placement.without(name for block in excluded for name in by_block(placement.outputs)[block])
        if left.int8_share < GATE_MIN_INT8_SHARE:
            raise _unmet(max_drop, drop, excluded[:-1])
        drop = gate.drop(left)
    return GateResult(
        placement=left,
        drop=drop,
        first_drop=first_drop,
        images=gate.seen,
        excluded=tuple(excluded),
        macs_share=placement.int8_share - left.int8_share,
    )


class _Gate:
    """Measures the drop of one placement after another on the same images.

    Attributes:
        seen: how many of them could be read.
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
        self._skipped, self._progress = on_skipped, progress
        self._labels = require_labels(images)
        self._fp32_top1 = self._top1(open_like_tensorrt(model), "FP32")
        self._require_knowledge()

    def drop(self, placement: Placement) -> float:
        """Points of top-1 that the placement loses."""
        quantized = insert_qdq(self._model, placement, self._ranges)
        # Rounded, so that 3 images of 1000 are 0.3 points and not a little more.
        return round(100 * (self._fp32_top1 - self._top1(self._open_session(quantized), "INT8")), 9)

    def _top1(self, session: Any, what: str) -> float:
        right = self.seen = 0
        size = images_per_run(self._images.preprocessing.side_px)
        for batch in self._images.batches(size, on_skipped=self._skipped):
            logits = run(session, batch.inputs)[0]
            self._images.require_classes(logits.shape[1], "the model")
            right += int(topk_hits(logits, self._labels[batch.indices]).sum())
            self.seen += len(logits)
            self._classes = logits.shape[1]
            self._progress(f"top-1 of {what}", int(batch.indices[-1]) + 1, self._images.count)
        return right / self.seen

    def _require_knowledge(self) -> None:
        estimate = wilson_interval(round(self._fp32_top1 * self.seen), self.seen)
        if is_within_chance(estimate, images=self.seen, classes=self._classes):
            raise DeployError(
                f"FP32's own top-1 on {self._images.source} is {100 * estimate.value:.1f} %, which can't be "
                "told from guessing: a bound on its drop says nothing.",
                code="gate-reference-too-weak",
                fix="number the classes as the model's outputs are (folders count in alphabetical order), or "
                "leave out --eval",
            )


def _some(images: Images) -> Images:
    """A few hundred of them, evenly spread, of every class."""
    return images.subset(sample_evenly(images.count, min(_SENSITIVITY_IMAGES, images.count), images.labels))


def require_labels(images: Images) -> Labels:
    """The images' labels.

    Raises:
        DeployError: they have none.
    """
    if images.labels is None:
        raise DeployError(
            f"{images.source} has no labels to measure top-1 by.",
            code="images-unlabelled",
            fix="give --eval a folder with one folder a class, or an .npz with labels",
        )
    return images.labels


def _unmet(max_drop: float, drop: float, excluded: list[str]) -> DeployError:
    return DeployError(
        f"Top-1 can't be kept within {max_drop:g} points: it drops by {drop:.2f} with "
        f"{len(excluded)} of the costliest blocks left in float, and without the next less than "
        f"{100 * GATE_MIN_INT8_SHARE:g} % of the work would be in INT8.",
        code="gate-failed",
        fix="calibrate on more images of the kind, allow a larger --max-drop, or build as FP16",
    )
