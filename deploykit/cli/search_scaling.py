import re
import sys
from pathlib import Path

import click

from deploykit.cli.network_options import family_option
from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json, print_table
from deploykit.cli.progress import show_progress
from deploykit.planning.search.coefficient_grid import DEFAULT_STEP, DEFAULT_TOLERANCE
from deploykit.planning.search.search import (
    DEFAULT_GPU,
    SEARCH_PERCENTILE,
    SearchPoint,
    SearchResult,
    search_scaling,
)
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

FAILED, STOPPED = 1, 130


@click.command(name="search-scaling")
@family_option
@click.option(
    "--budget",
    default="2x",
    show_default=True,
    help="Multiply-accumulates as a multiple of the baseline's, for example 2x.",
)
@click.option("--step", type=float, default=DEFAULT_STEP, show_default=True, help="Step of the grid.")
@click.option(
    "--tolerance",
    type=float,
    default=DEFAULT_TOLERANCE,
    show_default=True,
    help="Largest relative deviation of alpha * beta^2 * gamma^2 from the budget.",
)
@click.option(
    "--gpu",
    help="GPU to predict for; `local` and `cpu` measure. Default: the GPU of this machine, else "
    f"{DEFAULT_GPU}.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp16", "int8", "fp32"]),
    help="Precision of the engines; default: fp16, or fp32 on the CPU.",
)
@click.option(
    "--score-command",
    metavar="COMMAND",
    help="Command that scores a network and prints the score in its last line; larger is better. {onnx} "
    "stands for the model file; DEPLOYKIT_FAMILY, _DEPTH, _WIDTH and _SIDE in the environment say the scale.",
)
@click.option(
    "--jobs", type=int, default=1, show_default=True, help="Number of scoring commands that run at once."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("search"),
    show_default=True,
    help="Folder that keeps the scores; scores that are there are not computed again.",
)
@json_option
def command(
    family: str,
    budget: str,
    step: float,
    tolerance: float,
    gpu: str | None,
    precision: Precision | None,
    score_command: str | None,
    jobs: int,
    output: Path,
    as_json: bool,
) -> None:
    """Search the grid of scaling coefficients alpha, beta and gamma.

    Networks are ranked by the score that --score-command prints, or by latency at equal work. A stopped
    search resumes when the same command is run again.

    \b
    Example:
      deploykit search-scaling --family resnet18 --budget 2x
      deploykit search-scaling --score-command "python train.py {onnx}" --jobs 4
    """
    try:
        with show_progress("searching") as progress:
            search = search_scaling(
                family,
                budget=_multiple(budget),
                step=step,
                tolerance=tolerance,
                gpu=gpu,
                precision=precision,
                score_command=score_command,
                jobs=jobs,
                folder=output,
                progress=progress,
            )
    except KeyboardInterrupt:
        print(
            f"stopped; the results so far are in {output} (run the same command again to resume)",
            file=sys.stderr,
        )
        sys.exit(STOPPED)
    if as_json:
        print_json(
            {
                "family": search.family.name,
                "budget_macs": search.budget_macs,
                "gpu": search.gpu,
                "measured": search.is_measured,
                "points": [_fields(point) for point in search.points],
            }
        )
    else:
        _print(search)
    failed = [point for point in search.points if point.failure is not None]
    if failed:
        note(
            f"{len(failed)} networks have no score. The first, {failed[0].member.name}: {failed[0].failure}",
            important=True,
        )
        sys.exit(FAILED)


def _multiple(text: str) -> float:
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*x?\s*", text.lower())
    if match is None:
        raise DeployError(
            f"--budget needs a multiple of the baseline's work, not {text!r}.",
            code="invalid-budget",
            fix="write --budget 2x",
        )
    return float(match[1])


def _print(search: SearchResult) -> None:
    how = (
        f"measured on {search.gpu}, p{SEARCH_PERCENTILE:g}"
        if search.is_measured
        else f"predicted for {search.gpu}"
    )
    scored = any(point.score is not None for point in search.points)
    print(
        f"{search.family.title} at {search.budget_macs / 1e9:.3g} G MACs: {len(search.points)} points; "
        f"latency of one image {how}"
    )
    print_table(
        (
            "alpha",
            "beta",
            "gamma",
            "product",
            "side",
            "MACs",
            "parameters",
            "latency",
            "at the budget",
            *(["score"] if scored else []),
        ),
        [
            (
                f"{point.coefficients.depth:g}",
                f"{point.coefficients.width:g}",
                f"{point.coefficients.side:g}",
                f"{point.work:.3f}",
                f"{point.member.scale.side_px} px",
                f"{'off: ' if point.is_off_budget else ''}{point.macs / 1e9:.3f} G",
                f"{point.parameters / 1e6:.2f} M",
                f"{point.latency_ms:.3f} ms",
                f"{point.latency_at_budget_ms:.3f} ms",
                *(["" if point.score is None else f"{point.score:g}"] if scored else []),
            )
            for point in search.points
        ],
    )
    print(_answer(search))
    if any(point.is_off_budget for point in search.points):
        note("Networks that rounding puts more than 20 % off the budget come last.", important=True)


def _answer(search: SearchResult) -> str:
    best = search.points[0]
    found = best.coefficients
    by = "lowest latency at equal work" if best.score is None else "best score"
    return (
        f"{by}: deploykit export --family {search.family.name} --phi 1 --rule formula "
        f"--alpha {found.depth:g} --beta {found.width:g} --gamma {found.side:g}"
    )


def _fields(point: SearchPoint) -> dict[str, object]:
    return {
        "alpha": point.coefficients.depth,
        "beta": point.coefficients.width,
        "gamma": point.coefficients.side,
        "product": point.work,
        "scale": point.member.scale,
        "macs": point.macs,
        "parameters": point.parameters,
        "latency_ms": point.latency_ms,
        "latency_at_budget_ms": point.latency_at_budget_ms,
        "is_off": point.is_off_budget,
        "score": point.score,
        "failure": point.failure,
    }
