from pathlib import Path

import click

from deploykit.cli.image_options import ImageOptions, image_options
from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json
from deploykit.cli.progress import show_progress
from deploykit.quantize.calibration.methods import DEFAULT_PERCENT, METHOD_NAMES
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration_files import AUTO, calibrate_to_file, merge_ranges_files
from deploykit.util.errors import DeployError

_METHOD = "Method that picks the ranges; auto compares their output errors on held-out images."
_PERCENTS = ", ".join(f"{percent:g} for {name}" for name, percent in DEFAULT_PERCENT.items())


@click.command(name="calibrate")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--data", help="Images to calibrate on: a folder, a .npz with `images`, a manifest .toml, or `generated`."
)
@click.option("--merge", is_flag=True, help="Merge FILES, ranges of one model, instead of running the model.")
@click.option("--phi", type=float, help="Phi of the exported model.")
@click.option("--onnx", type=click.Path(path_type=Path), help="File of the exported model.")
@click.option(
    "--images",
    "limit",
    type=int,
    help="Largest number of images; default: 512, or the number in the manifest.",
)
@click.option(
    "--method", type=click.Choice([AUTO, *METHOD_NAMES]), default=AUTO, show_default=True, help=_METHOD
)
@click.option(
    "--percentile", type=float, help=f"Percentage of values that are not clipped; default: {_PERCENTS}."
)
@click.option("--seed", type=int, help="Seed to draw images at random; default: evenly spaced images.")
@click.option(
    "--manifest", type=click.Path(path_type=Path), help="Write the list of the images to this .toml file."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Path of the ranges file; default: in calibration/ (required with --merge).",
)
@image_options
@json_option
def command(
    files: tuple[Path, ...],
    data: str | None,
    merge: bool,
    phi: float | None,
    onnx: Path | None,
    limit: int | None,
    method: str,
    percentile: float | None,
    seed: int | None,
    manifest: Path | None,
    output: Path | None,
    image_options: ImageOptions,
    as_json: bool,
) -> None:
    """Stream images through an exported model and write its activation ranges.

    An interrupted calibration resumes when the same command is run again.

    \b
    Example:
      deploykit calibrate --data photos/
      deploykit calibrate --merge monday.json tuesday.json -o both.json
    """
    if merge:
        prepared = None if image_options == ImageOptions() else image_options
        _refuse(files, data, phi, onnx, limit, seed, manifest, prepared)
        path, ranges = merge_ranges_files(files, method=method, percentile=percentile, output=output)
    elif files:
        raise DeployError(
            f"calibrate takes no argument such as {files[0]} without --merge.",
            code="unexpected-argument",
            fix="give images with --data, or add --merge",
        )
    elif data is None:
        raise DeployError(
            "Calibration needs images.", code="data-missing", fix="deploykit calibrate --data DIR"
        )
    else:
        with show_progress("calibrating") as progress:
            path, ranges = calibrate_to_file(
                data,
                phi=phi,
                onnx=onnx,
                limit=limit,
                method=method,
                percentile=percentile,
                seed=seed,
                manifest=manifest,
                skip_bad=image_options.skip_bad,
                overrides=image_options.overrides,
                output=output,
                note=note,
                progress=progress,
            )
    _report(path, ranges, as_json=as_json)


def _refuse(files: tuple[Path, ...], *others: object) -> None:
    if not files:
        raise DeployError(
            "--merge needs the ranges files to merge.",
            code="option-incomplete",
            fix="deploykit calibrate --merge a.json b.json -o c.json",
        )
    if any(other is not None for other in others):
        raise DeployError(
            "--merge only combines ranges files, so options about models and images do not apply.",
            code="option-conflict",
            fix="remove all options except --method, --percentile, -o and --json",
        )


def _report(path: Path, ranges: Ranges, *, as_json: bool) -> None:
    intervals = {name: ranges.tensor_range(name) for name in ranges.statistics}
    scores = ranges.choice.scores if ranges.choice else ()
    errors = {str(score.method): score.error.mean for score in scores}
    if as_json:
        print_json(
            {
                "path": path,
                "images": ranges.images,
                "method": str(ranges.method),
                "errors": errors,
                "clipped": ranges.clipped_fractions(),
                "ranges": intervals,
            }
        )
        return
    chosen = ""
    if scores:
        compared = scores[0].error.images
        which = "the same images" if compared == ranges.images else f"{compared} other images"
        chosen = f", chosen among {len(scores)} by the output error on {which}"
    print(f"{path}: ranges of {len(intervals)} tensors from {ranges.images} images")
    print(f"method: {ranges.method}{chosen}")
    clipped = ranges.clipped_fractions()
    if clipped:
        most = min(clipped, key=clipped.__getitem__)
        print(
            f"clipped below half of the largest value: {len(clipped)} tensors, "
            f"most strongly {most} (to {100 * clipped[most]:.2g} %)"
        )
