import sys
from pathlib import Path
from typing import get_args

import click

from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import Record
from deploykit.cli.interrupts import ignore_interrupts
from deploykit.cli.network_options import family_option
from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json
from deploykit.cli.progress import show_progress
from deploykit.cli.record_output import Keeper, Kept, wandb_option
from deploykit.cli.units import parse_numbers
from deploykit.networks.scaling import AXES
from deploykit.reporting.study.study import SECONDS, FinishedRecord, run_study
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

STOPPED = 130


@click.command(name="study")
@click.option(
    "--gpu",
    default="local",
    show_default=True,
    help="Where to measure: `local`, `cpu`, or the name of this machine's GPU.",
)
@family_option
@click.option("--phi", metavar="N,N", help="Phis of the networks; default: all published ones.")
@click.option(
    "--precision", metavar="P,P", help="Precisions; default: fp32,int8 on a CPU, fp16,int8 on a GPU."
)
@click.option(
    "--batch",
    metavar="N,N",
    help="Batch sizes of the throughput; default: 1,2,4,8 on a CPU, 1,8,32,128 on a GPU.",
)
@click.option(
    "--axes/--no-axes", default=True, help="Scale depth, width and side separately as well; default: yes."
)
@click.option("--threads", type=int, help="Number of CPU threads; default: one per core.")
@click.option(
    "--seconds", type=float, default=SECONDS, show_default=True, help="Shortest duration of each measurement."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("records"),
    show_default=True,
    help="Folder for the records; measurements that are there are not repeated.",
)
@wandb_option
@json_option
def command(
    gpu: str,
    family: str,
    phi: str | None,
    precision: str | None,
    batch: str | None,
    axes: bool,
    threads: int | None,
    seconds: float,
    output: Path,
    wandb: str | None,
    as_json: bool,
) -> None:
    """Measure a family over phi, precision, batch size and scaling axis, for a report.

    The weights are random, which does not affect latency. A stopped study resumes when the same command is
    run again.

    \b
    Example:
      deploykit study --gpu cpu --phi 0,1,2,3 -o records
      deploykit report records/*.json -o report.html
    """
    keeper = Keeper(folder=output, project=wandb)
    keeper.prepare()
    measured = count = 0

    def start(there: int, of: int) -> None:
        nonlocal measured, count
        measured, count = there, of
        if there and wandb is not None:
            note(f"{there} of {of} records existed before and are not logged to Weights & Biases.")

    def show(each: FinishedRecord) -> None:
        nonlocal measured
        measured = each.number
        run = keeper.log(each.record, each.path)
        if not as_json:
            print(f"[{each.number}/{each.count}] {each.path}: {_words(each.record)}")
            for caveat in each.record.run_caveats:
                print(f"  {caveat}")
            Kept(path=None, run=run).print()

    try:
        with show_progress("measuring") as progress:
            study = run_study(
                output,
                gpu=gpu,
                family=family,
                phis=() if phi is None else parse_numbers(phi, float, option="--phi", example="0,1,2"),
                precisions=_precisions(precision),
                batches=() if batch is None else parse_numbers(batch, int, option="--batch", example="1,8"),
                axes=AXES if axes else (),
                threads=threads,
                seconds=seconds,
                on_start=start,
                progress=progress,
                on_record=show,
            )
    except KeyboardInterrupt:
        ignore_interrupts()
        there = f"{measured} of {count} measurements are in {output} " if count else ""
        resume = "run the same command again to resume"
        print(f"stopped; {there}({resume})" if count else f"stopped; {resume}", file=sys.stderr)
        sys.exit(STOPPED)
    if study.strays:
        note(f"Ignored files that are not records: {', '.join(map(str, study.strays))}.")
    if as_json:
        print_json({"folder": output, "records": study.records, "written": study.written})
    elif not study.written:
        note(f"{output} already has all {count} records.", important=True)
    else:
        print(f"{len(study.records)} of {count} records are in {output}, {len(study.written)} of them new")


def _precisions(text: str | None) -> tuple[Precision, ...]:
    names = text.split(",") if text is not None else ()
    if unknown := [name for name in names if name not in get_args(Precision)]:
        raise DeployError(
            f"--precision takes fp32, fp16 and int8, not {unknown[0]!r}.",
            code="unknown-precision",
            fix="write --precision fp32,int8",
        )
    return tuple(precision for precision in get_args(Precision) if precision in names)


def _words(record: Record | LayerProfile) -> str:
    if isinstance(record, LayerProfile):
        return f"{len(record.layers)} layers, {sum(layer.ms for layer in record.layers):.3g} ms"
    if record.method.scenario == "single-stream":
        return f"p50 {record.percentile_ms(50).value:.4g} ms, p90 {record.percentile_ms(90).value:.4g} ms"
    return f"{record.images_per_s.value:.4g} images/s"
