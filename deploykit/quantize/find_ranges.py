"""Where an INT8 build gets its ranges: given, measured on given images, found, or generated."""

from collections.abc import Callable
from pathlib import Path

from deploykit.errors import DeployError
from deploykit.files import sha256_of
from deploykit.model_file import ModelInfo
from deploykit.quantize.calibration import DEFAULT_IMAGES, Progress, calibrate
from deploykit.quantize.images import GENERATED, open_images
from deploykit.quantize.ranges import Ranges
from deploykit.workspace import CALIBRATION

GENERATED_IMAGES = 4  # enough for ranges of random weights, which mean nothing anyway


def ranges_for(
    model: Path,
    info: ModelInfo,
    *,
    ranges: Path | None,
    data: str | Path | None,
    note: Callable[[str], None],
    progress: Progress,
) -> Ranges:
    """The ranges to quantize a model with.

    Args:
        ranges: this very file, of this very model.
        data: images to calibrate on, see images.open_images.
        note: told, in a sentence, where the ranges come from.

    Raises:
        DeployError: the ranges are another model's; or there is no data for trained weights.
    """
    if ranges is not None and data is not None:
        raise DeployError("--ranges and --data both say what to quantize with.", fix="leave one of them out")
    if ranges is not None:
        return _given(ranges, sha256_of(model), note)
    if data is None and (found := _found(sha256_of(model), note)):
        return found
    if data is None:
        if info.weights != "random":
            raise DeployError(
                f"INT8 needs calibration images: {model} has trained weights, and {CALIBRATION}/ holds no "
                "ranges of it.",
                fix="deploykit build-engine --int8 --data DIR, with a folder of a few hundred typical images",
            )
        note(f"Random weights: calibrated on {GENERATED_IMAGES} generated images, right for latency alone.")
        data, limit = GENERATED, GENERATED_IMAGES
    else:
        limit = DEFAULT_IMAGES
        if str(data) == GENERATED and info.weights != "random":
            note("Generated images stand in for real ones: expect less accuracy than with --data DIR.")
    return calibrate(model, open_images(data, info.preprocessing, limit=limit), progress=progress)


def _given(path: Path, onnx_sha256: str, note: Callable[[str], None]) -> Ranges:
    given = Ranges.load(path)
    given.require_model(onnx_sha256)
    note(_credit(path, given))
    return given


def _found(onnx_sha256: str, note: Callable[[str], None]) -> Ranges | None:
    """The newest ranges of this model in calibration/."""
    files = [path for path in CALIBRATION.glob("*.ranges.json") if path.is_file()]
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
    return f"Ranges: {path}, of {ranges.images} images from {ranges.source}."
