from pathlib import Path

import click

from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json
from deploykit.cli.progress import show_progress
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.runtime.bundle.bundle import write_bundle
from deploykit.util.types import Precision


@click.command(name="bundle")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("engines", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Path of the bundle, for example b3.dkb.",
)
@click.option(
    "--fp32", is_flag=True, help="Build an FP32 model in FP32 where no plan runs; default: FP16 on GPUs."
)
@click.option("--batch", metavar="MIN,OPT,MAX", help="Range of batch sizes to build for; default: 1,1,64.")
@click.option(
    "--side",
    metavar="MIN,OPT,MAX",
    help="Range of input sides to build for, in pixels; default: the model's side only.",
)
@json_option
def command(
    model: Path,
    engines: tuple[Path, ...],
    output: Path,
    fp32: bool,
    batch: str | None,
    side: str | None,
    as_json: bool,
) -> None:
    """Pack MODEL and the ENGINES built from it into one file for many machines.

    A machine that loads the bundle uses the plan that runs there. If none does, it builds one and keeps it.

    \b
    Example:
      deploykit bundle model.int8.onnx model.int8.sm75.engine model.int8.sm80.engine -o b3.dkb
    """
    with show_progress("bundling"):
        bundle = write_bundle(
            model,
            engines,
            output=output,
            precision="fp32" if fp32 else None,
            batches=(BatchRange() if batch is None else BatchRange.parse(batch),),
            side=None if side is None else SideRange.parse(side),
            note=note,
        )
    contents = bundle.contents
    if as_json:
        print_json({"path": output, "contents": contents})
        return
    model_precision = contents.model.precision.upper()
    count = len(contents.plans)
    print(f"{output}: {model_precision} model and {count} plan{'s' if count != 1 else ''}")
    print(f"  {'where no plan runs' if count else 'when it is loaded'}, {_built(contents.precision)}")
    for plan in contents.plans:
        manifest = plan.manifest
        print(
            f"  {manifest.precision.upper()} for {manifest.target.title}, "
            f"{manifest.target.compiler_title} {manifest.compiler_version}, takes {manifest.input_summary}"
        )


def _built(precision: Precision) -> str:
    return "FP16 is built, FP32 on a CPU" if precision == "fp16" else f"{precision.upper()} is built"
