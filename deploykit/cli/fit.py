import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deploykit.cli.network_options import family_option
from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json
from deploykit.cli.print_fit import print_fit, print_fits
from deploykit.cli.progress import show_progress
from deploykit.cli.units import duration_ms, fraction, images_per_s, size_bytes
from deploykit.gpu_catalog.gpu_file import read_gpu_file
from deploykit.gpu_catalog.gpus import Gpu, normalize_gpu_name, normalized_names, normalized_synonyms
from deploykit.networks.scaling import AXES
from deploykit.planning.fit.fit import fit_phi
from deploykit.planning.fit.notes import DEFAULT_PERCENTILE
from deploykit.planning.fit.result import Candidate, FitResult
from deploykit.planning.latency_source import DEFAULT_FOLDER, find_absent_gpu
from deploykit.planning.measured_latency import MeasuredLatency
from deploykit.util.errors import DeployError, NothingFitsError

STOPPED = 130
TERMINAL = "-"
Files = Iterator[tuple[str, Path]]


@click.command(name="fit")
@click.option(
    "--gpu", required=True, help="GPU (T4, A100, ...), or several: T4,L4; `local` and `cpu` measure."
)
@click.option(
    "--gpu-file",
    "gpu_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="TOML file with facts of other GPUs.",
)
@family_option
@click.option("--max-latency", help="Of one batch, with a unit: 10ms.")
@click.option("--min-throughput", help="Images a second: 500.")
@click.option("--max-memory", help="Of weights and activations: 4GB.")
@click.option("--min-accuracy", help="Published top-1, of detectors AP: 80%.")
@click.option("--batch", default="1", show_default=True, help="Images at once; `auto` finds what suits.")
@click.option(
    "--precision",
    type=click.Choice(["fp16", "int8", "fp32", "best"]),
    help="Default: fp16; fp32 on the CPU. `best` compares that with int8.",
)
@click.option(
    "--phi-step",
    type=float,
    default=1.0,
    show_default=True,
    help="Distance of the phis tried; below 1 around the edge.",
)
@click.option(
    "--axis",
    type=click.Choice(["compound", *AXES]),
    default="compound",
    show_default=True,
    help="Scale one alone, to as much work as phi.",
)
@click.option(
    "--percentile",
    type=float,
    default=DEFAULT_PERCENTILE,
    show_default=True,
    help="Of measured latencies.",
)
@click.option("--optimistic", is_flag=True, help="Let the middle of an interval decide, not its bad end.")
@click.option(
    "--records",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Measurements on that GPU, a file or folder; they count more than predictions.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Keeps what is measured on this machine; what is there is not measured again.",
)
@click.option(
    "--plot",
    is_flag=False,
    flag_value=TERMINAL,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Draw it: in the terminal, or into a .png, .svg or .html file.",
)
@click.option("--export", "exports", is_flag=True, help="Go on: export the chosen phi and build its engine.")
@json_option
def command(
    gpu: str,
    gpu_files: tuple[Path, ...],
    max_latency: str | None,
    min_throughput: str | None,
    max_memory: str | None,
    min_accuracy: str | None,
    batch: str,
    axis: str,
    records: tuple[Path, ...],
    folder: Path,
    plot: Path | None,
    exports: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Find the largest phi that meets the targets. Exit status 3 where none does.

    A GPU that isn't here is predicted, and the unfavourable end of the interval decides.

    \b
    Example:
      deploykit fit --gpu T4 --max-latency 10ms --precision best
      deploykit fit --gpu T4,L4,A100 --min-throughput 500 --batch auto
      deploykit fit --gpu cpu --max-latency 50ms --phi-step 0.5 --export
    """
    if len(gpu_files) > 1:
        raise DeployError(
            f"--gpu-file is given {len(gpu_files)} times.",
            code="option-repeated",
            fix="put the tables of all GPUs into one file",
        )
    gpus = _gpus(gpu, *gpu_files)
    if len(gpus) > 1 and (plot is not None or exports or records):
        raise DeployError(
            "--plot, --export and --records are about one GPU.",
            code="option-conflict",
            fix="name one with --gpu, or leave them out",
        )
    drawn = plot if plot is not None and str(plot) != TERMINAL else None
    if plot is not None and drawn is None and as_json:
        raise DeployError(
            "--plot would draw where --json prints.",
            code="option-conflict",
            fix="name a file, as --plot fit.png",
        )
    if drawn is not None:
        from deploykit.planning.fit.plot import require_plottable

        require_plottable(drawn)
    if exports:
        from deploykit.engine.targets import resolve_target

        resolve_target(gpus[0])  # refuses what no engine can be built for
    targets: dict[str, Any] = {
        "max_latency_ms": duration_ms(max_latency),
        "min_images_per_s": images_per_s(min_throughput),
        "max_memory_bytes": None
        if max_memory is None
        else size_bytes(max_memory, option="--max-memory", example="4GB"),
        "min_accuracy": fraction(min_accuracy),
    }
    one_axis = next((each for each in AXES if each == axis), None)
    others |= targets | {"batch": _batch(batch), "axis": one_axis, "records": records}
    try:
        with show_progress("fitting") as progress:
            fits = _fits(gpus, folder, **others, progress=progress)
    except KeyboardInterrupt:
        print(f"stopped; {_kept(folder)}", file=sys.stderr)
        sys.exit(STOPPED)
    files = _files(fits[0], gpus[0], others["family"], drawn=drawn, exports=exports)
    if as_json:
        _show_as_json(fits, files)
    else:
        _show(fits, files, in_terminal=plot is not None and drawn is None)
    if all(each.chosen is None for each in fits):
        sys.exit(NothingFitsError.exit_code)


def _fits(gpus: Sequence[str | Gpu], folder: Path, **others: Any) -> list[FitResult]:
    """One of each, in order; what refuses one of them is told before any is measured, which takes minutes."""
    here = [each for each in gpus if not isinstance(each, Gpu) and find_absent_gpu(each) is None]
    if len(here) > 1:
        asked = None if others["precision"] == "best" else others["precision"]
        for each in here:
            MeasuredLatency(each, percentile=others["percentile"], folder=folder).resolve_precision(asked)
    predictions_first = sorted(gpus, key=lambda each: each in here)
    fits = {
        # a folder is about those that are measured; without any, fit_phi refuses it
        each: fit_phi(each, folder=folder if each in here or not here else DEFAULT_FOLDER, **others)
        for each in predictions_first
    }
    return [fits[each] for each in gpus]


def _kept(folder: Path) -> str:
    if any(folder.glob("*.json")):
        return f"what was measured is in {folder}, and the same command goes on"
    return "no result was written"


def _show(fits: list[FitResult], files: Files, *, in_terminal: bool) -> None:
    """The answer before the files, whatever becomes of these."""
    if len(fits) > 1:
        print_fits(fits)
        return
    print_fit(fits[0])
    if in_terminal:
        from deploykit.planning.fit.plot import plot_in_terminal

        print(plot_in_terminal(fits[0]))
    for _, path in files:
        print(path)


def _show_as_json(fits: list[FitResult], files: Files) -> None:
    """With those files that could be written, whatever becomes of the others."""
    written: dict[str, Path] = {}
    try:
        written.update(files)
    finally:
        plain = [_fields(each) | written for each in fits]
        print_json(plain[0] if len(plain) == 1 else plain)


def _files(fit: FitResult, gpu: str | Gpu, family: str, *, drawn: Path | None, exports: bool) -> Files:
    """Each as it is written, by what it is."""
    if drawn is not None:
        from deploykit.planning.fit.plot import write_plot

        write_plot(fit, drawn)
        yield "plot", drawn
    if exports and fit.chosen is not None:
        yield from _exported(fit, fit.chosen, gpu, family)


def _fields(fit: FitResult) -> dict[str, object]:
    chosen, hoped_for = (each.phi if each else None for each in (fit.chosen, fit.borderline))
    return {
        "chosen_phi": chosen,
        "may_fit_phi": hoped_for,
        "nearest_miss_phi": None if fit.chosen else fit.nearest_miss.phi,
        "fit": _plain(fit),
    }


def _plain(fit: FitResult) -> dict[str, object]:
    candidates = [
        {**asdict(each), "fits": each.fits, "images_per_s": each.images_per_s} for each in fit.candidates
    ]
    alternative = None if fit.alternative is None else _plain(fit.alternative)
    return {**asdict(fit), "precision": fit.precision, "candidates": candidates, "alternative": alternative}


def _gpus(names: str, file: Path | None = None) -> Sequence[str | Gpu]:
    """Those that --gpu names, each once; what the file describes takes the place of what is known."""
    described = () if file is None else _read(file)
    own = {key: each for each in described for key in normalized_names(each)}
    own |= {normalize_gpu_name(each.name): each for each in described}  # a name means more than an alias
    found: dict[frozenset[str], str | Gpu] = {}
    for name in map(str.strip, names.split(",")):
        alike = (each for each in described if normalized_names(each) & normalized_synonyms(name))
        gpu = own.get(normalize_gpu_name(name)) or next(alike, name)
        found[normalized_names(gpu) if isinstance(gpu, Gpu) else normalized_synonyms(name)] = gpu
    if described and not any(isinstance(each, Gpu) for each in found.values()):
        note(f"--gpu names nothing that {file} describes: {', '.join(each.name for each in described)}.")
    return list(found.values())


def _read(file: Path) -> tuple[Gpu, ...]:
    gpus, warnings = read_gpu_file(file)
    for warning in warnings:
        note(warning)
    return gpus


def _batch(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise DeployError(
            f"{text!r} is no batch.", code="invalid-batch", fix="write --batch 8, or --batch auto"
        ) from error


def _exported(fit: FitResult, chosen: Candidate, gpu: str | Gpu, family: str) -> Files:
    from deploykit.engine.build import build_engine
    from deploykit.engine.shapes import BatchRange
    from deploykit.networks.export import export_onnx
    from deploykit.networks.member import choose_member
    from deploykit.networks.single_axis import axis_member

    member = choose_member(family, phi=chosen.phi)
    if fit.axis is not None:
        member = axis_member(member.family, chosen.scale, fit.axis)
    only = BatchRange(min=chosen.batch, opt=chosen.batch, max=chosen.batch)
    with show_progress("exporting"):
        exported = export_onnx(member, overwrite=False)
    yield "onnx", exported.path
    with show_progress("building"):
        built = build_engine(
            onnx=exported.path, precision=chosen.precision, gpu=gpu, batches=[only], note=note
        )
    yield "engine", built.path
    note(
        "Random weights: right for building and timing engines, useless for accuracy; export with --weights."
    )
