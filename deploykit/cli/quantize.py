from pathlib import Path

import click

from deploykit.cli.int8_options import int8_options
from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json
from deploykit.cli.progress import show_progress
from deploykit.engine.quantize_model import quantize_model
from deploykit.quantize.int8_options import Int8Options


@click.command(name="quantize")
@click.option("--phi", type=float, help="Phi of the exported model.")
@click.option("--onnx", type=click.Path(path_type=Path), help="File of the exported model.")
@int8_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Path of the ONNX file; default: model.int8.onnx next to the model.",
)
@json_option
def command(
    phi: float | None, onnx: Path | None, int8: Int8Options, output: Path | None, as_json: bool
) -> None:
    """Write the exported model as INT8 ONNX with explicit Q/DQ, as build-engine compiles it.

    TensorRT compiles the file on any machine, and `deploykit eval` measures its accuracy on this one.

    \b
    Example:
      deploykit quantize --data photos/ --eval labelled/ --max-drop 0.5
    """
    with show_progress("quantizing") as progress:
        path, plan = quantize_model(
            phi=phi, onnx=onnx, int8=int8, output=output, note=note, progress=progress
        )
    if as_json:
        print_json({"path": path, "int8": plan.summary})
        return
    print(f"{path}: {100 * plan.placement.int8_share:.1f} % of the multiply-accumulates in INT8")
