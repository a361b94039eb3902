"""Where an INT8 build gets its ranges: given, measured on given images, found, or generated."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deploykit.data.images.generated import GENERATED
from deploykit.data.images.open import open_images
from deploykit.data.images.selection import Images
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.networks.artifact_paths import CALIBRATION_FOLDER
from deploykit.networks.model_info import ModelInfo
from deploykit.quantize.calibrate import CalibrationSettings, calibrate
from deploykit.quantize.calibration.methods import named_method
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.util.atomic_files import file_sha256
from deploykit.util.errors import DeployError

GENERATED_IMAGES = 4  # enough for ranges of random weights, which mean nothing anyway


def find_ranges(
    model: Path,
    info: ModelInfo,
    *,
    ranges: str | Path | None,
    data: str | Path | None,
    overrides: Overrides,
    settings: CalibrationSettings,
) -> Ranges:
    """The ranges to quantize a model with.

    Args:
        ranges: this very file, of this very model.
        data: images to calibrate on, see data.images.open.open_images.
        overrides: preprocessing other than the model's.
        settings: how to calibrate; its note is told where the ranges come from.

    Raises:
        DeployError: the ranges are another model's; or there is no data for trained weights.
    """
    if ranges is not None and data is not None:
        raise DeployError(
            "--ranges and --data both say what to quantize with.",
            code="option-conflict",
            fix="leave one of them out",
        )
    measured = None
    if ranges is not None:
        measured = _given(ranges, file_sha256(model), settings.note)
    elif data is None:
        measured = _found(file_sha256(model), settings.note)
    if measured is not None:
        return _with_preprocessing(measured, overrides)
    limit = None
    if data is None:
        if info.weights != "random":
            raise DeployError(
                f"INT8 needs calibration images: {model} has trained weights, but "
                f"{CALIBRATION_FOLDER}/ has no ranges of it.",
                code="calibration-data-missing",
                fix="give --data DIR, with a folder of a few hundred typical images",
            )
        settings.note(
            f"Random weights: calibrated on {GENERATED_IMAGES} generated images, right for latency alone."
        )
        data, limit = GENERATED, GENERATED_IMAGES
        settings = replace(settings, method=named_method("percentile"))
    images = open_images(data, info.preprocessing, limit=limit, overrides=overrides)
    measured = calibrate(model, images, settings)
    if limit is None:
        settings.note(f"Ranges: {_measured_on(measured)}; deploykit calibrate keeps such in a file.")
    return measured


def load_or_measure_ranges(
    model: Path,
    ranges: str | Path | None,
    images: Images,
    settings: CalibrationSettings,
    overrides: Overrides = NO_OVERRIDES,
) -> Ranges:
    """The ranges given, else the model's own in calibration/, else measured on these images.

    Raises:
        DeployError: the ranges are another model's, or the images can't be used.
    """
    onnx_sha256 = file_sha256(model)
    known = (
        _given(ranges, onnx_sha256, settings.note)
        if ranges is not None
        else _found(onnx_sha256, settings.note)
    )
    return calibrate(model, images, settings) if known is None else _with_preprocessing(known, overrides)


def _with_preprocessing(ranges: Ranges, overrides: Overrides) -> Ranges:
    if ranges.preprocessing != ranges.preprocessing.override(overrides):
        raise DeployError(
            "The ranges were measured with another preprocessing than you ask for.",
            code="ranges-preprocessing-mismatch",
            fix="leave those options out, or calibrate with them: deploykit calibrate --data DIR",
        )
    return ranges


def _given(path: str | Path, onnx_sha256: str, note: Callable[[str], None]) -> Ranges:
    given = Ranges.load(Path(path))
    given.require_model(onnx_sha256)
    note(_credit(Path(path), given))
    return given


def _found(onnx_sha256: str, note: Callable[[str], None]) -> Ranges | None:
    """The newest ranges of this model in calibration/."""
    files = [path for path in CALIBRATION_FOLDER.glob("*.ranges.json") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            candidate = Ranges.load(path)
        except DeployError as error:
            note(f"Passed over: {error.problem}")
            continue
        if candidate.onnx_sha256 == onnx_sha256:
            note(_credit(path, candidate))
            return candidate
    return None


def _credit(path: Path, ranges: Ranges) -> str:
    return f"Ranges: {path}, {_measured_on(ranges)}."


def _measured_on(ranges: Ranges) -> str:
    how = f"{ranges.method}, chosen by output error" if ranges.choice else str(ranges.method)
    return f"of {ranges.images} images from {', '.join(ranges.sources)} ({how})"
