"""Where an INT8 build gets its ranges: a given file, given images, calibration/, or generated images."""

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
from deploykit.util.progress import Note

GENERATED_IMAGES = 4  # enough for random weights, whose accuracy is meaningless anyway


def find_ranges(
    model: Path,
    info: ModelInfo,
    *,
    ranges: str | Path | None,
    data: str | Path | None,
    overrides: Overrides,
    settings: CalibrationSettings,
) -> Ranges:
    """Return the ranges to quantize a model with.

    Args:
        model, info: The FP32 model.
        ranges: A ranges file of this model.
        data: Images to calibrate on, see data.images.open.open_images.
        overrides: Preprocessing that differs from the model's.
        settings: How to calibrate; its note receives where the ranges come from.

    Raises:
        DeployError: The ranges belong to another model, or there is no data for a trained model.
    """
    if ranges is not None and data is not None:
        raise DeployError(
            "--ranges and --data can't be combined.",
            code="option-conflict",
            fix="remove one of them",
        )
    known = None
    if ranges is not None:
        known = _load_given(ranges, file_sha256(model), settings.note)
    elif data is None:
        known = _load_newest(file_sha256(model), settings.note)
    if known is not None:
        return _require_preprocessing(known, overrides)
    limit = None
    if data is None:
        if info.weights != "random":
            raise DeployError(
                f"INT8 needs calibration images: {model} has trained weights, and {CALIBRATION_FOLDER}/ has "
                "no ranges for it.",
                code="calibration-data-missing",
                fix="give --data DIR, a folder with a few hundred typical images",
            )
        settings.note(
            f"Random weights: calibrated on {GENERATED_IMAGES} generated images, which is enough to measure "
            "latency but not accuracy."
        )
        data, limit = GENERATED, GENERATED_IMAGES
        settings = replace(settings, method=named_method("percentile"))
    images = open_images(data, info.preprocessing, limit=limit, overrides=overrides)
    measured = calibrate(model, images, settings)
    if limit is None:
        settings.note(f"Ranges: {_describe(measured)}; deploykit calibrate saves them to a file.")
    return measured


def load_or_measure_ranges(
    model: Path,
    ranges: str | Path | None,
    images: Images,
    settings: CalibrationSettings,
    overrides: Overrides = NO_OVERRIDES,
) -> Ranges:
    """Return the given ranges, or the newest of the model in calibration/, or measure them on these images.

    Raises:
        DeployError: The ranges belong to another model, or the images can't be used.
    """
    onnx_sha256 = file_sha256(model)
    known = (
        _load_given(ranges, onnx_sha256, settings.note)
        if ranges is not None
        else _load_newest(onnx_sha256, settings.note)
    )
    if known is None:
        return calibrate(model, images, settings)
    return _require_preprocessing(known, overrides)


def _require_preprocessing(ranges: Ranges, overrides: Overrides) -> Ranges:
    if ranges.preprocessing != ranges.preprocessing.override(overrides):
        raise DeployError(
            "The ranges were measured with different preprocessing than the options request.",
            code="ranges-preprocessing-mismatch",
            fix="remove the preprocessing options, or calibrate with them: deploykit calibrate --data DIR",
        )
    return ranges


def _load_given(path: str | Path, onnx_sha256: str, note: Note) -> Ranges:
    given = Ranges.load(path)
    given.require_model(onnx_sha256)
    note(f"Ranges: {path}, {_describe(given)}.")
    return given


def _load_newest(onnx_sha256: str, note: Note) -> Ranges | None:
    """Return the newest ranges of this model in calibration/, if there are any."""
    files = [path for path in CALIBRATION_FOLDER.glob("*.ranges.json") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            candidate = Ranges.load(path)
        except DeployError as error:
            note(f"Ignored: {error.problem}")
            continue
        if candidate.onnx_sha256 == onnx_sha256:
            note(f"Ranges: {path}, {_describe(candidate)}.")
            return candidate
    return None


def _describe(ranges: Ranges) -> str:
    method = f"{ranges.method}, chosen by output error" if ranges.choice else str(ranges.method)
    return f"from {ranges.images} images of {', '.join(ranges.sources)} ({method})"
