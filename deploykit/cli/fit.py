import sys

import click

from deploykit.cli.network_options import family_option
from deploykit.cli.output import json_option, note, phases, print_json, print_table
from deploykit.cli.units import duration_ms, images_per_s
from deploykit.fit import DEFAULT_PERCENTILE, Candidate, Fit, fit_phi
from deploykit.model_file import Precision
from deploykit.scaling import phi_label

NOTHING_FITS = 3


@click.command(name="fit")
@click.option("--gpu", required=True, help="GPU (T4, A100, ...); `local` and `cpu` measure.")
@family_option
@click.option("--max-latency", help="Of one batch, with a unit: 10ms.")
@click.option("--min-throughput", help="Images a second: 500.")
@click.option("--batch", type=int, default=1, show_default=True, help="Images at once.")
@click.option(
    "--precision", type=click.Choice(["fp16", "int8", "fp32"]), help="Default: fp16; fp32 on the CPU."
)
@click.option("--phi-step", type=float, default=1.0, show_default=True, help="Distance of the phis tried.")
@click.option(
    "--percentile", type=float, default=DEFAULT_PERCENTILE, show_default=True, help="Of measured latencies."
)
@json_option
def command(
    gpu: str,
    family: str,
    max_latency: str | None,
    min_throughput: str | None,
    batch: int,
    precision: Precision | None,
    phi_step: float,
    percentile: float,
    as_json: bool,
) -> None:
    """Find the largest phi that meets a target. Exit status 3 where none does.

    A GPU that isn't here is predicted, and the unfavourable end of the interval decides.

    \b
    Example:
      deploykit fit --gpu T4 --max-latency 10ms --precision int8
    """
    with phases("fitting") as progress:
        fit = fit_phi(
            gpu,
            max_latency_ms=duration_ms(max_latency),
            min_images_per_s=images_per_s(min_throughput),
            family=family,
            batch=batch,
            precision=precision,
            phi_step=phi_step,
            percentile=percentile,
            progress=progress,
        )
    if as_json:
        chosen, hoped_for = (each.phi if each else None for each in (fit.chosen, fit.hoped_for))
        print_json({"chosen_phi": chosen, "may_fit_phi": hoped_for, "fit": fit})
    else:
        _print(fit, percentile)
    if fit.chosen is None:
        sys.exit(NOTHING_FITS)


def _print(fit: Fit, percentile: float) -> None:
    measured = fit.candidates[0].latency.evidence == "measured"
    how = f"measured here, p{percentile:g}" if measured else "predicted for TensorRT, with a 90 % interval"
    print(f"{fit.family} {fit.precision.upper()} on {fit.gpu}, batch {fit.candidates[0].batch}, {how}")
    print_table(
        ("phi", "side", "latency", *(() if measured else ("interval",)), "throughput", "evidence", "fits"),
        [
            (
                phi_label(each.phi),
                f"{each.side_px} px",
                f"{each.latency.expected_ms:.2f} ms",
                *(() if measured else (f"{each.latency.low_ms:.2f}-{each.latency.high_ms:.2f} ms",)),
                f"{each.images_per_s:.0f} images/s",
                each.latency.evidence,
                "yes" if each.fits else "no",
            )
            for each in fit.candidates
        ],
    )
    print(_answer(fit))
    if fit.precision == "int8" and not measured:
        note(
            "INT8 is predicted for TensorRT with every layer in INT8, as published; "
            "the pointwise placement built here gains less."
        )
    if fit.hoped_for is not None:
        maybe, latency = phi_label(fit.hoped_for.phi), fit.hoped_for.latency
        print(
            f"phi {maybe} may fit too: {latency.expected_ms:.2f} ms expected, up to {latency.high_ms:.2f} ms "
            "possible; measure it there with deploykit bench."
        )


def _answer(fit: Fit) -> str:
    if fit.chosen is not None:
        return f"largest phi that fits: {phi_label(fit.chosen.phi)}"
    miss = fit.candidates[0]
    return f"nothing fits; the nearest miss is phi {phi_label(miss.phi)}: {_shortfall(miss, fit)}"


def _shortfall(miss: Candidate, fit: Fit) -> str:
    wanted = []
    if fit.goal.max_latency_ms is not None and not fit.goal.is_fast_enough(miss.latency.high_ms):
        wanted.append(f"{miss.latency.high_ms:.2f} ms where {fit.goal.max_latency_ms:g} ms are wanted")
    productive = fit.goal.is_productive_enough(miss.latency.high_ms, miss.batch)
    if fit.goal.min_images_per_s is not None and not productive:
        rate = 1000 * miss.batch / miss.latency.high_ms
        wanted.append(f"{rate:.0f} images/s where {fit.goal.min_images_per_s:g} are wanted")
    return ", ".join(wanted)
