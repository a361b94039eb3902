"""Measure what INT8 costs the shapes model, by calibration method and calibration images.

python examples/shapes/compare.py
"""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from render import CALIBRATION_SEED, SIDE_PX, VALIDATION_SEED, render, write
from train import PHI, VALIDATION_COUNT, WEIGHTS

from deploykit import (
    DeployError,
    Int8Options,
    calibrate_to_file,
    evaluate_model,
    export_onnx,
    quantize_model,
)
from deploykit.accuracy.evaluation import Evaluation
from deploykit.onnx_tools.fp16 import to_fp16
from deploykit.onnx_tools.model_io import read_model, to_bytes

CALIBRATION_COUNT = 512
METHODS = ("auto", "max", "percentile", "peak-percentile", "entropy", "mse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One way to calibrate; `data` is what `deploykit calibrate --data` takes."""

    name: str
    data: str
    method: str
    limit: int | None = None


def calibrations(folder: Path) -> Iterator[Calibration]:
    """Yield calibrations on typical images by every method, then on others; write images to folder."""
    typical = render(CALIBRATION_COUNT, CALIBRATION_SEED)
    typical_file = folder / "calibration.npz"
    write(typical, typical_file)
    for method in METHODS:
        yield Calibration(name=f"{CALIBRATION_COUNT} rendered images", data=str(typical_file), method=method)
    noise = np.random.default_rng(0).integers(0, 256, typical.images.shape, np.uint8)
    other_images = {
        "4 rendered images": typical.images[:4],
        f"{CALIBRATION_COUNT} images at night": typical.images // 8,
        f"{CALIBRATION_COUNT} images of noise": noise,
        "4 black images": np.zeros_like(noise[:4]),
    }
    for name, images in other_images.items():
        data = folder / f"{name}.npz"
        np.savez(data, images=images)
        for method in ("percentile", "max"):
            yield Calibration(name=name, data=str(data), method=method)


def compare(weights: Path, count: int, folder: Path) -> Iterator[str]:
    """Yield the rows of the table as they are measured."""
    model = export_onnx(
        PHI, rule="formula", weights=weights, side_px=SIDE_PX, output=folder / "model.onnx"
    ).path
    validation = folder / "validation.npz"
    write(render(count, VALIDATION_SEED), validation)
    yield f"{'calibrated on':24} {'method':16} top-1   drop (95 %)             agreement  SQNR"
    fp16 = folder / "model.fp16.onnx"
    fp16.write_bytes(to_bytes(to_fp16(read_model(model))))
    yield _row("FP32", "", evaluate_model(model, validation, reference=model))
    yield _row("FP16", "", evaluate_model(fp16, validation, reference=model))
    for each in calibrations(folder):
        ranges, _ = calibrate_to_file(
            each.data, onnx=model, method=each.method, output=folder / "ranges.json"
        )
        # No layers stay in float, so that rows differ only in their ranges.
        int8, _ = quantize_model(onnx=model, int8=Int8Options(ranges=ranges, float_budget=0))
        yield _row(each.name, each.method, evaluate_model(int8, validation, reference=model))


def _row(name: str, method: str, measured: Evaluation) -> str:
    scores = measured.scores
    drop, top1, agreement = scores.top1_drop, scores.top1, scores.agreement
    if drop is None or top1 is None or agreement is None or scores.sqnr_db is None:
        raise DeployError(
            f"{measured.images.source} has no labels.", code="images-unlabelled", fix="render it again"
        )
    interval = f"({100 * drop.low:+.2f} to {100 * drop.high:+.2f})"
    sqnr = f"{scores.sqnr_db:.1f} dB" if math.isfinite(scores.sqnr_db) else "exact"
    return (
        f"{name:24} {method:16} {top1.value:6.2%} {100 * drop.value:+6.2f} {interval:18} "
        f"{agreement.value:8.2%} {sqnr:>8}"
    )


@click.command(epilog="Example: python examples/shapes/compare.py --count 1000")
@click.option("--weights", type=click.Path(path_type=Path), default=WEIGHTS, show_default=True)
@click.option("--count", type=click.IntRange(1, 100_000), default=VALIDATION_COUNT, show_default=True)
def main(weights: Path, count: int) -> None:
    """Print the top-1 of the shapes model in INT8 on COUNT rendered images."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            for row in compare(weights, count, Path(folder)):
                click.echo(row)
    except DeployError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
