import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from deploykit.cli.fit_artifacts import Artifacts, require_artifacts, write_artifacts
from deploykit.cli.fit_gpus import select_gpus
from deploykit.cli.network_options import family_option
from deploykit.cli.output import json_option, print_json
from deploykit.cli.print_fit import print_fit, print_fits
from deploykit.cli.progress import show_progress
from deploykit.cli.units import parse_duration_ms, parse_fraction, parse_images_per_s, parse_size_bytes
from deploykit.gpu_catalog.gpus import Gpu
from deploykit.networks.scaling import AXES, Axis
from deploykit.planning.fit.fit import PrecisionChoice, fit_phi
from deploykit.planning.fit.notes import DEFAULT_PERCENTILE
from deploykit.planning.fit.result import FitResult
from deploykit.planning.latency_source import DEFAULT_FOLDER, find_absent_gpu
from deploykit.planning.measured_latency import MeasuredLatency
from deploykit.util.errors import DeployError, NothingFitsError

STOPPED = 130
TERMINAL = "-"


@click.command(name="fit")
@click.option(
    "--gpu",
    required=True,
    help="GPU to fit for (T4, A100, ...), or several: T4,L4. `local` and `cpu` measure this machine.",
)
@click.option(
    "--gpu-file",
    "gpu_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="TOML file with facts about other GPUs.",
)
@family_option
@click.option("--max-latency", help="Largest latency of one batch, with a unit: 10ms.")
@click.option("--min-throughput", help="Smallest throughput in images per second: 500.")
@click.option("--max-memory", help="Largest memory of weights and activations: 4GB.")
@click.option("--min-accuracy", help="Smallest published accuracy, top-1 or a detector's AP: 80%.")
@click.option(
    "--batch", default="1", show_default=True, help="Batch size; `auto` picks one that meets the targets."
)
@click.option(
    "--precision",
    type=click.Choice(["fp16", "int8", "fp32", "best"]),
    help="Precision of the engine; default: fp16, or fp32 on the CPU. `best` compares the default with int8.",
)
@click.option(
    "--phi-step",
    type=float,
    default=1.0,
    show_default=True,
    help="Step between the phis that are tried; below 1, finer steps are tried around the largest that fits.",
)
@click.option(
    "--axis",
    type=click.Choice(["compound", *AXES]),
    default="compound",
    show_default=True,
    help="Axis to scale alone, to as much work as phi; compound scales all three.",
)
@click.option(
    "--percentile",
    type=float,
    default=DEFAULT_PERCENTILE,
    show_default=True,
    help="Percentile of measured latencies that must meet the target.",
)
@click.option(
    "--optimistic",
    is_flag=True,
    help="Decide by the middle of a predicted interval rather than by its unfavourable end.",
)
@click.option(
    "--records",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File or folder of measurements on that GPU; they take precedence over predictions.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder for measurements on this machine; those that are there are not repeated.",
)
@click.option(
    "--plot",
    is_flag=False,
    flag_value=TERMINAL,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Plot the result in the terminal, or into a .png, .svg or .html file.",
)
@click.option(
    "--export", "exports", is_flag=True, help="Export the chosen phi and build its engine afterwards."
)
@json_option
def command(
    gpu: str,
    gpu_files: tuple[Path, ...],
    family: str,
    max_latency: str | None,
    min_throughput: str | None,
    max_memory: str | None,
    min_accuracy: str | None,
    batch: str,
    precision: PrecisionChoice,
    phi_step: float,
    axis: Axis | Literal["compound"],
    percentile: float,
    optimistic: bool,
    records: tuple[Path, ...],
    folder: Path,
    plot: Path | None,
    exports: bool,
    as_json: bool,
) -> None:
    """Find the largest phi that meets the targets. The exit status is 3 if none does.

    A GPU in another machine is predicted, and the unfavourable end of the interval decides.

    \b
    Example:
      deploykit fit --gpu T4 --max-latency 10ms --precision best
      deploykit fit --gpu T4,L4,A100 --min-throughput 500 --batch auto
      deploykit fit --gpu cpu --max-latency 50ms --phi-step 0.5 --export
    """
    gpus = select_gpus(gpu, gpu_files)
    if len(gpus) > 1 and (plot is not None or exports or records):
        raise DeployError(
            "--plot, --export and --records work for one GPU.",
            code="option-conflict",
            fix="name one GPU with --gpu, or remove them",
        )
    plot_file = plot if plot is not None and str(plot) != TERMINAL else None
    if plot is not None and plot_file is None and as_json:
        raise DeployError(
            "--plot and --json would both print to the terminal.",
            code="option-conflict",
            fix="name a file for the plot: --plot fit.png",
        )
    require_artifacts(gpus[0], plot_file=plot_file, exports=exports)
    max_memory_bytes = (
        None if max_memory is None else parse_size_bytes(max_memory, option="--max-memory", example="4GB")
    )
    try:
        with show_progress("fitting") as progress:

            def fit(each: str | Gpu, folder: Path) -> FitResult:
                return fit_phi(
                    each,
                    max_latency_ms=parse_duration_ms(max_latency),
                    min_images_per_s=parse_images_per_s(min_throughput),
                    max_memory_bytes=max_memory_bytes,
                    min_accuracy=parse_fraction(min_accuracy),
                    family=family,
                    axis=None if axis == "compound" else axis,
                    batch=_parse_batch(batch),
                    precision=precision,
                    phi_step=phi_step,
                    percentile=percentile,
                    optimistic=optimistic,
                    records=records,
                    folder=folder,
                    progress=progress,
                )

            fits = _fit_all(gpus, folder, fit, precision=precision, percentile=percentile)
    except KeyboardInterrupt:
        print(f"stopped; {_kept(folder)}", file=sys.stderr)
        sys.exit(STOPPED)
    artifacts = write_artifacts(fits[0], gpus[0], family, plot_file=plot_file, exports=exports)
    if as_json:
        _print_json(fits, artifacts)
    else:
        _print(fits, artifacts, in_terminal=plot is not None and plot_file is None)
    if all(each.chosen is None for each in fits):
        sys.exit(NothingFitsError.exit_code)


def _fit_all(
    gpus: Sequence[str | Gpu],
    folder: Path,
    fit: Callable[[str | Gpu, Path], FitResult],
    *,
    precision: PrecisionChoice,
    percentile: float,
) -> list[FitResult]:
    """Fit for each GPU, and report mistakes before the measurements, which take minutes."""
    here = [each for each in gpus if not isinstance(each, Gpu) and find_absent_gpu(each) is None]
    if len(here) > 1:
        for each in here:
            source = MeasuredLatency(each, percentile=percentile, folder=folder)
            source.resolve_precision(None if precision == "best" else precision)
    predictions_first = sorted(gpus, key=lambda each: each in here)
    fits = {
        # The folder is for measured GPUs; if there are none, fit_phi refuses it.
        each: fit(each, folder if each in here or not here else DEFAULT_FOLDER)
        for each in predictions_first
    }
    return [fits[each] for each in gpus]


def _kept(folder: Path) -> str:
    if any(folder.glob("*.json")):
        return f"the measurements so far are in {folder} (run the same command again to resume)"
    return "no result was written"


def _print(fits: list[FitResult], artifacts: Artifacts, *, in_terminal: bool) -> None:
    """Print the answer, and then each artifact as it is written."""
    if len(fits) > 1:
        print_fits(fits)
        return
    print_fit(fits[0])
    if in_terminal:
        from deploykit.planning.fit.plot import plot_in_terminal

        print(plot_in_terminal(fits[0]))
    for _, path in artifacts:
        print(path)


def _print_json(fits: list[FitResult], artifacts: Artifacts) -> None:
    """Print the answer with the artifacts that could be written, even if a later one fails."""
    written: dict[str, Path] = {}
    try:
        written.update(artifacts)
    finally:
        plain = [_fields(each) | written for each in fits]
        print_json(plain[0] if len(plain) == 1 else plain)


def _fields(fit: FitResult) -> dict[str, object]:
    chosen, borderline = (each.phi if each else None for each in (fit.chosen, fit.borderline))
    return {
        "chosen_phi": chosen,
        "may_fit_phi": borderline,
        "nearest_miss_phi": None if fit.chosen else fit.nearest_miss.phi,
        "fit": _plain(fit),
    }


def _plain(fit: FitResult) -> dict[str, object]:
    candidates = [
        {**asdict(each), "fits": each.fits, "images_per_s": each.images_per_s} for each in fit.candidates
    ]
    alternative = None if fit.alternative is None else _plain(fit.alternative)
    return {**asdict(fit), "precision": fit.precision, "candidates": candidates, "alternative": alternative}


def _parse_batch(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise DeployError(
            f"--batch needs a number or `auto`, not {text!r}.", code="invalid-batch", fix="write --batch 8"
        ) from error
