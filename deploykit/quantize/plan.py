"""The plan of an INT8 model: its ranges, its placement, and what stays in float for accuracy."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.data.images.open import MAX_IMAGES, open_images
from deploykit.data.images.selection import Images
from deploykit.networks.model_info import ModelInfo, count_classes, require_classifier
from deploykit.quantize.accuracy_gate import (
    GateResult,
    OpenSession,
    apply_accuracy_gate,
    open_like_tensorrt,
    require_labels,
)
from deploykit.quantize.calibrate import CalibrationSettings
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.find_ranges import find_ranges
from deploykit.quantize.float_fallback import FloatFallback, choose_float_fallback
from deploykit.quantize.int8_options import DEFAULT_MAX_DROP, Int8Options
from deploykit.quantize.placement import Placement, Policy, place_int8
from deploykit.quantize.plan_notes import (
    clipping_note,
    fallback_note,
    gate_note,
    placement_note,
    preprocessing_note,
)
from deploykit.quantize.qdq import insert_qdq
from deploykit.quantize.summary import Int8Summary
from deploykit.util.progress import Note, Progress, ignore_note, no_progress

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Plan:
    """Ranges and placement of an INT8 model, and how the placement came about.

    Attributes:
        placement: What is in INT8.
        float_fallback: What stays in float because it costs most accuracy for its work.
        gate: What the accuracy gate measured; None without a gate.
    """

    placement: Placement
    ranges: Ranges
    float_fallback: FloatFallback
    gate: GateResult | None

    def apply(self, model: "ModelProto") -> "ModelProto":
        """Return a copy of the FP32 model with explicit Q/DQ."""
        return insert_qdq(model, self.placement, self.ranges)

    @property
    def summary(self) -> Int8Summary:
        """The part of the plan that engine manifests keep."""
        return Int8Summary(
            policy=self.placement.policy,
            method=str(self.ranges.method),
            share=self.placement.int8_share,
            left_out=self.float_fallback.outputs,
            excluded=self.gate.float_blocks if self.gate else (),
            drop=self.gate.top1_drop if self.gate else None,
        )


def plan_int8(
    path: Path,
    model: "ModelProto",
    info: ModelInfo,
    options: Int8Options,
    *,
    policy: Policy,
    open_session: OpenSession = open_like_tensorrt,
    note: Note = ignore_note,
    progress: Progress = no_progress,
) -> Int8Plan:
    """Find or measure ranges, place INT8, choose the float fallback, and apply the accuracy gate.

    Args:
        path, model, info: The FP32 model.
        policy: What to place in INT8, as requested or as the compiler prefers.
        open_session: How the accuracy gate runs the quantized model.
        note: Receives where the ranges come from, what is clipped, and what stays in float.

    Raises:
        DeployError: The input is invalid, or the bound on accuracy can't be met.
    """
    gate_images = _open_gate_images(path, model, info, options)  # before the slow part
    policy_placement = place_int8(model, policy, include=options.include, exclude=options.exclude)
    settings = CalibrationSettings(skip_bad=options.skip_bad, note=note, progress=progress)
    ranges = find_ranges(
        path,
        info,
        ranges=options.ranges,
        data=options.data,
        overrides=options.overrides,
        settings=settings,
    )
    noise = ranges.choice.noise if ranges.choice else {}
    placement, fallback = choose_float_fallback(policy_placement, noise, float_budget=options.float_budget)
    for sentence in (
        preprocessing_note(ranges, info),
        clipping_note(ranges, placement),
        fallback_note(fallback, policy_placement) if noise and options.float_budget else None,
        placement_note(placement),
    ):
        if sentence is not None:
            note(sentence)
    gate = None
    if gate_images is not None:
        max_drop = DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop
        gate = apply_accuracy_gate(
            model,
            placement,
            ranges,
            replace(gate_images, preprocessing=ranges.preprocessing),
            max_drop=max_drop,
            open_session=open_session,
            on_skipped=settings.skip_callback() if settings.skip_bad else None,
            progress=progress,
        )
        placement = gate.placement
        note(gate_note(gate, max_drop, ranges))
    return Int8Plan(placement=placement, ranges=ranges, float_fallback=fallback, gate=gate)


def _open_gate_images(
    path: Path, model: "ModelProto", info: ModelInfo, options: Int8Options
) -> Images | None:
    if options.eval_data is None:
        return None
    require_classifier(
        path,
        model,
        fix="remove --eval; deploykit sensitivity shows what INT8 does to boxes and scores",
    )
    images = open_images(options.eval_data, info.preprocessing, limit=MAX_IMAGES, overrides=options.overrides)
    require_labels(images)
    if classes := count_classes(model):
        images.require_classes(classes, path)
    return images
