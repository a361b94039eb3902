"""Calibrate into a ranges file, or merge several ranges files."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploykit.data.images.manifest import require_image_manifest, write_image_manifest
from deploykit.data.images.open import open_images
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.networks.artifact_paths import default_ranges_path, model_name
from deploykit.networks.model_info import ModelInfo
from deploykit.quantize.calibrate import CalibrationSettings, calibrate
from deploykit.quantize.calibration.checkpoint import CalibrationCheckpoint
from deploykit.quantize.calibration.methods import CalibrationMethod, named_method
from deploykit.quantize.calibration.ranges import Ranges, merge_ranges
from deploykit.quantize.fp32_model import find_fp32_model
from deploykit.util.atomic_files import file_sha256, require_writable
from deploykit.util.errors import DeployError
from deploykit.util.progress import Note, Progress, ignore_note, no_progress

AUTO = "auto"
"""The method name that stands for choosing the method with the least output error."""


def calibrate_to_file(
    data: str | Path,
    *,
    phi: float | None = None,
    onnx: str | Path | None = None,
    limit: int | None = None,
    method: str = AUTO,
    percentile: float | None = None,
    seed: int | None = None,
    skip_bad: bool = False,
    overrides: Overrides = NO_OVERRIDES,
    manifest: str | Path | None = None,
    output: str | Path | None = None,
    note: Note = ignore_note,
    progress: Progress = no_progress,
) -> tuple[Path, Ranges]:
    """Calibrate an exported model and write its ranges, by default into calibration/.

    If it is interrupted, the same call continues where it stopped.

    Args:
        data: See data.images.open.open_images.
        phi: Selects an exported model under engines/ by its coefficient.
        onnx: Path of the exported model; default the newest under engines/.
        limit: Largest number of images; default 512, or as many as a manifest names.
        method: `auto`, or one of quantize.calibration.methods.
        percentile: Percent to keep unclipped, above 50 and up to 100, for the percentile methods.
        seed: Draw images at random, the same ones for the same seed; None spreads them evenly.
        skip_bad: Skip unreadable images, and note which.
        overrides: Preprocessing that differs from the model's.
        manifest: A .toml file to record the images in, for use as `data` later.
        output: The ranges file.

    Returns:
        The written file, and its ranges.

    Raises:
        DeployError: The input is invalid. Nothing is written.
    """
    settings = CalibrationSettings(
        method=parse_method(method, percentile), skip_bad=skip_bad, note=note, progress=progress
    )
    model, graph, info = find_fp32_model(phi, onnx, note=note)
    path = Path(output) if output else _default_path(model, info)
    require_writable(path, inputs=(model,))
    images = open_images(data, info.preprocessing, limit=limit, seed=seed, overrides=overrides)
    checkpoint = CalibrationCheckpoint.beside(path)
    require_writable(checkpoint.path)
    manifest = None if manifest is None else Path(manifest)
    if manifest is not None:
        require_writable(manifest, inputs=(model, path))
        require_image_manifest(manifest, images)
    ranges = calibrate(model, images, settings, graph=graph, checkpoint=checkpoint)
    ranges.save(path)
    checkpoint.remove()
    if manifest is not None:
        write_image_manifest(manifest, images, overrides=overrides)
        note(f"Recorded the images in {manifest}; use it as --data to calibrate on them again.")
    return path, ranges


def _default_path(model: Path, info: ModelInfo) -> Path:
    """Return a path in calibration/ that does not hold ranges of another model."""
    digest = file_sha256(model)
    path = default_ranges_path(model, model_name(info.family, info.phi, info.rule, info.scale))
    with contextlib.suppress(DeployError):  # there are none, or they are unusable
        if Ranges.load(path).onnx_sha256 != digest:
            return path.with_name(f"{path.name.removesuffix('.ranges.json')}-{digest[:8]}.ranges.json")
    return path


def merge_ranges_files(
    files: Sequence[str | Path],
    *,
    method: str = AUTO,
    percentile: float | None = None,
    output: str | Path | None,
) -> tuple[Path, Ranges]:
    """Merge ranges files of one model.

    With one method the result equals a calibration on all their images.

    Args:
        files: Ranges files.
        method: `auto` keeps the method of the files. If `auto` chose those, it chooses again, by the summed
            errors that the files recorded on their held-out images. Any other method is applied to all.
        percentile: See calibrate_to_file.
        output: The merged ranges file.

    Returns:
        The written file, and its ranges.

    Raises:
        DeployError: The input is invalid, or the files do not belong together. Nothing is written.
    """
    ranges = [Ranges.load(path) for path in files]
    if output is None:
        raise DeployError(
            "--merge needs an output file.",
            code="output-missing",
            fix="add, for example, -o calibration/all.ranges.json",
        )
    output = Path(output)
    require_writable(output)
    if len({each.sha256 for each in ranges}) < len(ranges):
        raise DeployError(
            "Two of the files are identical, so their images would count twice.",
            code="ranges-repeated",
            fix="name each file once",
        )
    if (named := parse_method(method, percentile)) is not None:
        ranges = [replace(each, method=named, choice=None) for each in ranges]
    merged = merge_ranges(*ranges)
    merged.save(output)
    return output, merged


def parse_method(name: str, percentile: float | None) -> CalibrationMethod | None:
    """Return the method that a user names; None for `auto`.

    Raises:
        DeployError: The method is unknown, or does not take a percentile.
    """
    if name != AUTO:
        return named_method(name, percentile)
    if percentile is not None:
        raise DeployError(
            "--percentile has no effect with --method auto.",
            code="option-not-applicable",
            fix="add --method percentile or --method peak-percentile",
        )
    return None
