import math
from pathlib import Path

import click

from deploykit.accuracy.evaluate import evaluate_model
from deploykit.accuracy.evaluation import Evaluation
from deploykit.accuracy.model_loader import ARITHMETICS
from deploykit.bench.record_file import require_record_folder, write_record
from deploykit.cli.image_options import ImageOptions, image_options
from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json, print_table
from deploykit.cli.progress import show_progress
from deploykit.stats.proportion import Proportion
from deploykit.util.errors import DeployError

_AUTO = "auto"


@click.command(name="eval")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    help="Images: a folder with one folder per class, a .npz, a manifest .toml, or `generated`.",
)
@click.option("--images", type=int, help="Largest number of images; default: all, or 512 generated ones.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="FP32 model to compare with; default: the one with the recorded SHA-256.",
)
@click.option(
    "--arithmetic",
    type=click.Choice([_AUTO, *ARITHMETICS]),
    default=_AUTO,
    show_default=True,
    help="INT8 arithmetic: TensorRT's, or the runtime's; auto uses TensorRT's for ONNX models and the "
    "runtime's for engines.",
)
@image_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder for a record of the top-1 accuracy."
)
@json_option
def command(
    model: Path,
    data: str,
    images: int | None,
    reference: Path | None,
    arithmetic: str,
    image_options: ImageOptions,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure the accuracy of MODEL, an ONNX file or an engine, and its loss against FP32.

    Images without labels give the agreement with the FP32 model and the SQNR of the logits.

    \b
    Example:
      deploykit eval engines/efficientnet-phi3/model.int8.cpu.onnx --data photos/
    """

    def on_skipped(error: DeployError) -> None:
        note(f"Skipped: {error.problem}")

    if output is not None:
        require_record_folder(output)  # before the evaluation rather than after it
    with show_progress("evaluating") as progress:
        evaluation = evaluate_model(
            model,
            data,
            images=images,
            reference=reference,
            arithmetic=next((each for each in ARITHMETICS if each == arithmetic), None),
            overrides=image_options.overrides,
            require_labels=output is not None,
            on_skipped=on_skipped if image_options.skip_bad else None,
            note=note,
            progress=progress,
        )
    path = None if output is None else write_record(evaluation.record(), output)
    if as_json:
        print_json({**evaluation.summary(), "record": path})
    else:
        _print(evaluation)
    if path is not None and not as_json:
        print(f"record: {path}")


def _print(evaluation: Evaluation) -> None:
    model, scores = evaluation.model, evaluation.scores
    images = f"{evaluation.count} image{'s' if evaluation.count > 1 else ''} of {evaluation.images.source}"
    print(f"{model.path}: {model.precision.upper()} on {images}")
    shares = (
        ("top-1", scores.top1),
        ("top-5", scores.top5),
        ("top-1 of FP32", scores.reference_top1),
        ("agreement with FP32", scores.agreement),
    )
    rows = [(name, f"{100 * of.value:.2f} %", _interval(of, "%")) for name, of in shares if of is not None]
    if scores.top1_drop is not None:
        drop = scores.top1_drop
        rows.append(("drop of top-1", f"{100 * drop.value:+.2f} points", _interval(drop, "points", sign="+")))
    for name, decibels in (
        ("SQNR of the logits", scores.sqnr_db),
        ("SQNR of the median image", scores.median_sqnr_db),
    ):
        if decibels is not None:
            rows.append((name, "no difference" if decibels == math.inf else f"{decibels:.1f} dB", ""))
    print_table(("", "measured", "95 % interval"), rows)
    if scores.top1_drop is not None:
        print(_verdict(scores.top1_drop))
    if evaluation.reference is not None:
        print(f"FP32: {evaluation.reference}")
    print(f"runtime: {model.ran_by}")


def _interval(estimate: Proportion, unit: str, *, sign: str = "") -> str:
    return f"{100 * estimate.low:{sign}.2f} to {100 * estimate.high:{sign}.2f} {unit}"


def _verdict(drop: Proportion) -> str:
    if drop.low > 0:
        return "the drop of top-1 is statistically significant"
    if drop.high < 0:
        return "the gain of top-1 is statistically significant"
    return "the difference of top-1 is within the uncertainty of this many images: rely on the agreement"
