"""What an INT8 build does to a model: ranges, placement, what stays in float and why."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.data.images.open import MAX_IMAGES, open_images
from deploykit.data.images.selection import Images
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.networks.model_info import ModelInfo, class_count, require_classifier
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
from deploykit.quantize.float_fallback import (
    DEFAULT_FLOAT_BUDGET,
    FALLBACK_MIN_INT8_SHARE,
    FloatFallback,
    choose_float_fallback,
)
from deploykit.quantize.placement import POLICIES, Placement, Policy, place
from deploykit.quantize.qdq import insert_qdq
from deploykit.quantize.summary import Int8Summary
from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from onnx import ModelProto

DEFAULT_MAX_DROP = 0.5
_LARGE_DROP = 5.0  # points that no typical calibration costs

Progress = Callable[[str, int, int], None]
_GAINS_NOTHING = 0.25  # of the multiply-accumulates: half their time is saved, less what converting takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Options:
    """What a user may say about INT8.

    Attributes:
        data: images to calibrate on; else `ranges`, else the model's own in calibration/.
        skip_bad, overrides: see quantize.calibrate.
        policy: None for the compiler's own.
        include, exclude: patterns of products, see placement.place.
        spare: part of the model's multiply-accumulates to leave in float for accuracy at most, of a policy
            that puts over 75 % in INT8; see leave_out.
        eval_data: labelled images for the accuracy gate; None for no gate.
        max_drop: what the gate allows, in points of top-1.
    """

    data: str | Path | None = None
    ranges: str | Path | None = None
    skip_bad: bool = False
    overrides: Overrides = NO_OVERRIDES
    policy: Policy | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    spare: float = DEFAULT_FLOAT_BUDGET
    eval_data: str | Path | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.policy not in (None, *POLICIES):
            raise DeployError(
                f"There is no INT8 policy {self.policy}.",
                code="unknown-policy",
                fix=f"take one of {', '.join(POLICIES)}",
            )
        if not 0 <= self.spare <= 1:
            raise DeployError(
                f"{100 * self.spare:g} % of the work can't be left out.",
                code="invalid-float-budget",
                fix="give --int8-spare 10, say",
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise DeployError(
                f"A drop of {self.max_drop:g} points is no bound.",
                code="invalid-max-drop",
                fix="give --max-drop 0.5, say",
            )
        if self.max_drop is not None and self.eval_data is None:
            raise DeployError(
                "--max-drop needs labelled images to measure on.",
                code="option-incomplete",
                fix="add --eval DIR, one folder a class",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Plan:
    """Ranges and placement of an INT8 model, and how the placement came about."""

    placement: Placement
    ranges: Ranges
    left_out: FloatFallback
    passed: GateResult | None

    def apply(self, model: "ModelProto") -> "ModelProto":
        """A copy of the FP32 model with explicit Q/DQ."""
        return insert_qdq(model, self.placement, self.ranges)

    @property
    def summary(self) -> Int8Summary:
        return Int8Summary(
            policy=self.placement.policy,
            method=str(self.ranges.method),
            share=self.placement.int8_share,
            left_out=self.left_out.outputs,
            excluded=self.passed.excluded if self.passed else (),
            drop=self.passed.drop if self.passed else None,
        )


def plan_int8(
    path: Path,
    model: "ModelProto",
    info: ModelInfo,
    options: Int8Options,
    *,
    policy: Policy,
    open_session: OpenSession = open_like_tensorrt,
    note: Callable[[str], None],
    progress: Progress,
) -> Int8Plan:
    """Finds or measures ranges, places INT8, leaves out what costs most, and passes the accuracy gate.

    Args:
        path: of the FP32 model.
        policy: the one asked for, or the compiler's own.
        open_session: how the accuracy gate runs the quantized model.
        note: told, in a sentence each, where the ranges come from, what was clipped and left out.

    Raises:
        DeployError: bad input, or a bound on accuracy that can't be met.
    """
    gate_images = _gate_images(path, model, info, options)  # before long work
    placed = place(model, policy, include=options.include, exclude=options.exclude)
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
    placement, left_out = choose_float_fallback(placed, noise, spare=options.spare)
    for sentence in (
        _prepared(ranges, info),
        _clipped(ranges, placement),
        _left_out(left_out),
        _nothing_to_spare(placed) if noise and options.spare else None,
        _placed(placement),
    ):
        if sentence is not None:
            note(sentence)
    passed = None
    if gate_images is not None:
        max_drop = DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop
        passed = apply_accuracy_gate(
            model,
            placement,
            ranges,
            replace(gate_images, preprocessing=ranges.preprocessing),
            max_drop=max_drop,
            open_session=open_session,
            on_skipped=settings.on_skipped() if settings.skip_bad else None,
            progress=progress,
        )
        placement = passed.placement
        note(_gated(passed, max_drop, ranges))
    return Int8Plan(placement=placement, ranges=ranges, left_out=left_out, passed=passed)


def _gate_images(path: Path, model: "ModelProto", info: ModelInfo, options: Int8Options) -> Images | None:
    if options.eval_data is None:
        return None
    require_classifier(
        path, model, fix="leave out --eval; deploykit sensitivity tells what INT8 does to boxes and scores"
    )
    images = open_images(options.eval_data, info.preprocessing, limit=MAX_IMAGES, overrides=options.overrides)
    require_labels(images)
    if classes := class_count(model):
        images.require_classes(classes, path)
    return images


def _prepared(ranges: Ranges, info: ModelInfo) -> str | None:
    if ranges.preprocessing == info.preprocessing:
        return None
    return (
        "The ranges were measured with another preprocessing than the model records: what is built records "
        "theirs, and wants its images prepared so."
    )


def _placed(placement: Placement) -> str:
    little = (
        " So little gains nothing: build it in another precision."
        if placement.int8_share < FALLBACK_MIN_INT8_SHARE
        else ""
    )
    return (
        f"INT8 policy {placement.policy}: {len(placement.products)} convolutions and linear layers, "
        f"{100 * placement.int8_share:.1f} % of the multiply-accumulates.{little}"
    )


def _clipped(ranges: Ranges, placement: Placement) -> str | None:
    parts = {name: part for name, part in ranges.clipped().items() if name in placement.tensors}
    if not parts:
        return None
    named = sorted(parts, key=parts.__getitem__)
    most = ", ".join(f"{name} (to {100 * parts[name]:.2g} %)" for name in named[:3])
    return (
        f"Clipped to under half of the largest value seen ({ranges.method}): {len(parts)} of "
        f"{len(placement.tensors)} tensors, most of all {most}."
    )


def _left_out(left_out: FloatFallback) -> str | None:
    if not left_out.outputs:
        return None
    return (
        f"Left in float for accuracy: {', '.join(left_out.outputs)}; {100 * left_out.macs_share:.1f} % of "
        f"the multiply-accumulates, {100 * left_out.noise_share:.0f} % of the noise."
    )


def _nothing_to_spare(placed: Placement) -> str | None:
    if placed.int8_share > FALLBACK_MIN_INT8_SHARE:
        return None
    return f"Nothing is left in float for accuracy, with {100 * FALLBACK_MIN_INT8_SHARE:g} % or less in INT8."


def _gated(passed: GateResult, max_drop: float, ranges: Ranges) -> str:
    if not passed.excluded:
        change = f"drops by {passed.drop:.2f}" if passed.drop >= 0 else f"rises by {-passed.drop:.2f}"
        return f"Top-1 {change} points on {passed.images} images; a drop of {max_drop:g} is allowed."
    unlike = " So large a drop says that the images calibrated on are unlike these"
    unlike += "." if ranges.choice else f", or that {ranges.method} is not the method for them: try auto."
    return (
        f"Top-1 dropped by {passed.first_drop:.2f} points on {passed.images} images, and by "
        f"{passed.drop:.2f} with {', '.join(passed.excluded)} left in float, another "
        f"{100 * passed.macs_share:.1f} % of the multiply-accumulates: "
        f"{100 * passed.placement.int8_share:.1f} % are in INT8."
        f"{unlike if passed.first_drop > _LARGE_DROP else ''}"
    )
