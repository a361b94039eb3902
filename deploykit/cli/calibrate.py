from pathlib import Path

import click

from deploykit.cli.output import json_option, note, print_json, progress_bar
from deploykit.quantize.calibration import DEFAULT_IMAGES, calibrate_to_file
from deploykit.quantize.ranges import DEFAULT_PERCENTILE, METHODS, Method


@click.command(name="calibrate")
@click.option("--data", required=True, help="Folder of images, .npz with `images`, or `generated`.")
@click.option("--phi", type=float, help="Which exported model, by its phi.")
@click.option("--onnx", type=click.Path(path_type=Path), help="Which exported model, by its file.")
@click.option(
    "--images", "limit", type=int, default=DEFAULT_IMAGES, show_default=True, help="At most this many."
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="percentile",
    show_default=True,
    help="How ranges are read off.",
)
@click.option(
    "--percentile",
    type=float,
    default=DEFAULT_PERCENTILE,
    show_default=True,
    help="Of magnitudes, kept unclipped.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Ranges file; default: in calibration/."
)
@json_option
def command(
    data: str,
    phi: float | None,
    onnx: Path | None,
    limit: int,
    method: Method,
    percentile: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Stream images through an exported model and write its activation ranges.

    \b
    Example:
      deploykit calibrate --data photos/
    """
    with progress_bar("calibrating", "images") as progress:
        path, ranges = calibrate_to_file(
            data,
            phi=phi,
            onnx=onnx,
            limit=limit,
            method=method,
            percentile=percentile,
            output=output,
            note=note,
            progress=progress,
        )
    amax = {name: ranges.amax(name) for name in ranges.histograms}
    if as_json:
        print_json({"path": path, "images": ranges.images, "method": ranges.method, "ranges": amax})
        return
    how = f"{ranges.percentile!r}th percentile" if ranges.method == "percentile" else "maximum"
    print(f"{path}: ranges of {len(amax)} activations from {ranges.images} images ({how} of magnitudes)")
