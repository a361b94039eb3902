"""Images and an exported model -> its activation ranges, in memory or in a file."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploykit.data.images.generated import GENERATED
from deploykit.data.images.manifest import require_image_manifest, write_image_manifest
from deploykit.data.images.open import open_images
from deploykit.data.images.sampling import sample_evenly
from deploykit.data.images.selection import Images, OnSkipped, report_each_once
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.networks.artifact_paths import default_ranges_path, find_model, model_name
from deploykit.networks.model_info import ModelInfo, input_side_px, read_model_info, require_fp32
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.calibration.activations import measure_activations
from deploykit.quantize.calibration.checkpoint import CalibrationCheckpoint
from deploykit.quantize.calibration.methods import CalibrationMethod, named_method
from deploykit.quantize.calibration.observer import images_per_run
from deploykit.quantize.calibration.ranges import Ranges, merge_ranges
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics
from deploykit.quantize.method_search import choose_method
from deploykit.quantize.placement import Placement, place, place_everything
from deploykit.util.atomic_files import file_sha256, require_writable
from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from onnx import ModelProto

AUTO = "auto"
# Images that `auto` compares methods on: few of large sides, which take long, and a quarter of all at most.
_HELD_OUT_PIXELS = 32 * 224**2
_FEWEST_HELD_OUT, _MOST_HELD_OUT = 16, 64
_TOO_FEW = 8  # images to hold any out of

Note = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and of how much."""


def _silent(*args: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """How to calibrate.

    Attributes:
        method: None for `auto`.
        skip_bad: leave out images that can't be read, instead of stopping at the first.
        note: told what the user should know.
    """

    method: CalibrationMethod | None = None
    skip_bad: bool = False
    note: Note = _silent
    progress: Progress = _silent

    def on_skipped(self) -> OnSkipped:
        """Tells of each image that is left out, once."""
        return report_each_once(lambda error: self.note(f"Left out: {error.problem}"))


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
    note: Note = _silent,
    progress: Progress = _silent,
) -> tuple[Path, Ranges]:
    """Calibrates an exported model and writes its ranges, by default into calibration/.

    Interrupted and called again, it goes on from where it was.

    Args:
        data: see data.images.open.open_images.
        phi, onnx: which model, see artifact_paths.find_model.
        limit: at most this many images; default 512, or as many as a manifest says.
        method: `auto`, or one of quantize.calibration.methods.
        percentile: percent to keep, above 50, at most 100, for the methods that take one.
        seed: draw images at random, the same ones each time; None draws them evenly.
        skip_bad: leave out images that can't be read, and say which.
        overrides: preprocessing other than the model's.
        manifest: a .toml to write down in which images these are, for `data` the next time.

    Raises:
        DeployError: bad input; nothing is written.
    """
    settings = CalibrationSettings(
        method=parse_method(method, percentile), skip_bad=skip_bad, note=note, progress=progress
    )
    model, sentence = find_model(phi=phi, onnx=onnx)
    if sentence is not None:
        note(sentence)
    graph = read_model(model)
    info = read_model_info(graph)
    require_fp32(model, info)
    path = Path(output) if output else _free_path(model, info)
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
        note(f"The images are written down in {manifest}: give it as --data to draw them again.")
    return path, ranges


def _free_path(model: Path, info: ModelInfo) -> Path:
    """In calibration/, where no ranges of another model are."""
    digest = file_sha256(model)
    path = default_ranges_path(model, model_name(info.family, info.phi, info.rule, info.scale))
    with contextlib.suppress(DeployError):  # there are none, or they are no use
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
    """Merges ranges files of one model; the same as calibrating on all their images by one method.

    Args:
        method: `auto` to keep the files' own, or where that was chosen, to choose anew by the errors that
            each file's held-out images gave with that file's ranges; or the one to read all of them off by.

    Raises:
        DeployError: bad input, or files that don't go together; nothing is written.
    """
    ranges = [Ranges.load(Path(path)) for path in files]
    if output is None:
        raise DeployError(
            "The merged ranges have no place to go.",
            code="output-missing",
            fix="give -o calibration/all.ranges.json",
        )
    output = Path(output)
    require_writable(output)
    if len({each.sha256 for each in ranges}) < len(ranges):
        raise DeployError(
            "Two of the files are the same: their images would count twice.",
            code="ranges-repeated",
            fix="name each file once",
        )
    if (named := parse_method(method, percentile)) is not None:
        ranges = [replace(each, method=named, choice=None) for each in ranges]
    merged = merge_ranges(*ranges)
    merged.save(output)
    return output, merged


def parse_method(name: str, percentile: float | None) -> CalibrationMethod | None:
    """The method a user means; None for `auto`.

    Raises:
        DeployError: there is none of that name, or a percentile where none belongs.
    """
    if name != AUTO:
        return named_method(name, percentile)
    if percentile is not None:
        raise DeployError(
            "--percentile says nothing to a method that is chosen.",
            code="option-not-applicable",
            fix="add --method percentile or --method peak-percentile",
        )
    return None


def calibrate(
    model: Path,
    images: Images,
    settings: CalibrationSettings,
    *,
    graph: "ModelProto | None" = None,
    checkpoint: CalibrationCheckpoint | None = None,
) -> Ranges:
    """Ranges of every activation that a policy may put in INT8, over all the images.

    Args:
        model: an FP32 ONNX file.
        graph: what the file holds, where it has been read already.
        checkpoint: where to keep what is done so far; None to keep nothing.

    Raises:
        DeployError: unreadable images, or activations that are not finite.
    """
    graph = graph or read_model(model)
    input_side_px(graph)  # or it can't be fed
    if images.source == GENERATED and read_model_info(graph).weights != "random":
        settings.note("Generated images stand in for real ones: expect less accuracy than with --data DIR.")
    if images.count < images.requested:
        settings.note(f"{images.source} has {images.count} images, not {images.requested}.")
    measured, held_out = _split(images) if settings.method is None else (images, images)
    if settings.method is None and images.count < _TOO_FEW:
        settings.note(
            "Methods are compared on the very images they were measured on: too few to hold any out."
        )
    on_skipped = settings.on_skipped() if settings.skip_bad else None
    ranges = measure_activations(
        graph,
        measured,
        _empty(graph, file_sha256(model), images, settings.method),
        checkpoint=checkpoint,
        note=settings.note,
        progress=lambda done, total: settings.progress("calibrating", done, total),
        on_skipped=on_skipped,
    )
    if settings.method is not None:
        return ranges
    if checkpoint is not None:  # what follows takes long too
        checkpoint.save(measured, measured.count, ranges)
    size = images_per_run(images.preprocessing.side_px)
    try:
        return choose_method(
            graph,
            _most_int8(graph),
            ranges,
            [batch.inputs for batch in held_out.batches(size, on_skipped=on_skipped)],
            progress=lambda done, total: settings.progress("choosing ranges", done, total),
        )
    except KeyboardInterrupt:
        if checkpoint is not None:
            settings.note("Stopped with all images counted; the same command goes on from there.")
        raise


def _empty(model: "ModelProto", onnx_sha256: str, images: Images, method: CalibrationMethod | None) -> Ranges:
    return Ranges(
        onnx_sha256=onnx_sha256,
        preprocessing=images.preprocessing,
        sources=(images.source,),
        images=0,
        method=method or named_method("percentile"),
        statistics={name: TensorStatistics() for name in place_everything(model).tensors},
    )


def _split(images: Images) -> tuple[Images, Images]:
    """Images to measure ranges on, and others to compare methods on; the same where there are too few."""
    if images.count < _TOO_FEW:
        return images, images
    wanted = min(max(_HELD_OUT_PIXELS // images.preprocessing.side_px**2, _FEWEST_HELD_OUT), _MOST_HELD_OUT)
    held_out = sample_evenly(images.count, min(wanted, images.count // 4), images.labels)
    return images.subset(np.setdiff1d(np.arange(images.count), held_out)), images.subset(held_out)


def _most_int8(model: "ModelProto") -> Placement:
    """The placement methods are compared by, and tensors' noise is measured in: activations of all sizes."""
    try:
        return place(model, "bandwidth")
    except DeployError:  # no convolution on feature maps
        return place(model, "all-conv")
