from pathlib import Path

import click

from deploykit.cli.image_options import ImageOptions, image_options
from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json, print_table
from deploykit.cli.progress import show_progress
from deploykit.quantize.placement import DEFAULT_POLICY, POLICIES
from deploykit.quantize.sensitivity import BlockCost, Sensitivity, measure_sensitivity

_BAR = 30  # characters of the longest


@click.command(name="sensitivity")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    help="Images: a folder with one folder per class, a .npz, a manifest .toml, or `generated`.",
)
@click.option("--images", type=int, default=256, show_default=True, help="Largest number of images.")
@click.option(
    "--ranges",
    type=click.Path(path_type=Path),
    help="File of activation ranges; default: this model's in calibration/, else measured on --data.",
)
@click.option(
    "--int8-policy",
    type=click.Choice(POLICIES),
    default=DEFAULT_POLICY,
    show_default=True,
    help="Which layers of a block run in INT8.",
)
@image_options
@json_option
def command(
    model: Path,
    data: str,
    images: int,
    ranges: Path | None,
    int8_policy: str,
    image_options: ImageOptions,
    as_json: bool,
) -> None:
    """Show which blocks of MODEL, an FP32 ONNX file, cost accuracy in INT8.

    One block at a time runs in INT8, and the others in FP32.

    \b
    Example:
      deploykit sensitivity engines/efficientnet-phi3/model.onnx --data labelled/
    """
    with show_progress("measuring") as progress:
        measured = measure_sensitivity(
            model,
            data,
            images=images,
            ranges=ranges,
            policy=next(policy for policy in POLICIES if policy == int8_policy),
            skip_bad=image_options.skip_bad,
            overrides=image_options.overrides,
            note=note,
            progress=progress,
        )
    if as_json:
        print_json(measured)
    else:
        _print(measured)


def _print(measured: Sensitivity) -> None:
    fp32 = "" if measured.top1 is None else f", top-1 of FP32 {100 * measured.top1:.2f} %"
    print(f"{measured.images} images{fp32}; one block in INT8 at a time, the costliest first")
    worst = measured.blocks[0].error
    rows = [_row(cost, worst) for cost in (*measured.blocks, measured.whole)]
    columns = ["block", "MACs", "SQNR", "error", "", *(["top-1 change"] if measured.top1 is not None else [])]
    print_table(columns, rows)


def _decibels(cost: BlockCost) -> str:
    if cost.sqnr_db is not None:
        return f"{cost.sqnr_db:.1f} dB"
    return "exact" if cost.error == 0 else "none"


def _row(cost: BlockCost, worst: float) -> list[str]:
    bar = "█" * round(_BAR * min(cost.error / worst, 1.0)) if worst else ""
    cells = [
        cost.block,
        f"{100 * cost.macs_share:.1f} %",
        _decibels(cost),
        f"{cost.error:.1e}",
        bar.ljust(_BAR),
    ]
    if cost.top1_change is not None:
        cells.append(f"{cost.top1_change:+.2f}")
    return cells
