import dataclasses
from pathlib import Path
from typing import Any, get_args

import click

from deploykit.bench.benchmark import benchmark
from deploykit.bench.layers.layer_profile import LayerProfile, explain_beaten_bounds, profile_engine
from deploykit.bench.layers.layer_time import MEASURED_RUNS, LayerTime, sum_by_block, sum_by_kind
from deploykit.bench.record import PERCENTILES, Record, Scope, describe_execution
from deploykit.bench.scenarios import DEFAULT_SAMPLES, DEFAULT_SECONDS, Scenario
from deploykit.bench.server_scenario import DEFAULT_SEARCH_SECONDS, SERVER_PERCENTILE
from deploykit.cli.output import json_option, print_json, print_table
from deploykit.cli.progress import show_progress
from deploykit.cli.record_output import Keeper, Kept, wandb_option
from deploykit.cli.units import parse_duration_ms, parse_numbers
from deploykit.engine.manifest import is_bundle, read_engine_manifest
from deploykit.stats.estimate import Estimate
from deploykit.stats.latency_percentiles import required_samples
from deploykit.util.errors import DeployError

_SLOWEST = 10


@click.command(name="bench")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option(
    "--scenario",
    type=click.Choice(get_args(Scenario)),
    default="single-stream",
    show_default=True,
    help="MLPerf scenario: one call after another, throughput, or the highest request rate that holds "
    "--max-latency.",
)
@click.option(
    "--scope",
    type=click.Choice(get_args(Scope)),
    default="end-to-end",
    show_default=True,
    help="Part of a call that is timed: all of it, the GPU's computation, or the host's enqueueing.",
)
@click.option(
    "--batch", metavar="N,N", help="Batch sizes, one record each; default: the one the engine is tuned for."
)
@click.option(
    "--max-latency", metavar="10ms", help="Latency that the server scenario holds at the 99th percentile."
)
@click.option(
    "--seconds", type=float, help=f"Shortest duration of a measurement; default: {DEFAULT_SECONDS:g}."
)
@click.option("--samples", type=int, help=f"Fewest calls that are measured; default: {DEFAULT_SAMPLES}.")
@click.option(
    "--search-seconds",
    type=float,
    help=f"Longest duration of the server scenario's search; default: {DEFAULT_SEARCH_SECONDS:g}.",
)
@click.option("--threads", type=int, help="Number of CPU threads; default: one per core.")
@click.option(
    "--cuda-graph/--no-cuda-graph", default=True, show_default=True, help="Replay a CUDA graph on a GPU."
)
@click.option("--layers", is_flag=True, help="Time each layer and compare it with the roofline bound.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the records.")
@wandb_option
@json_option
def command(
    engine: Path,
    scenario: Scenario,
    scope: Scope,
    batch: str | None,
    max_latency: str | None,
    seconds: float | None,
    samples: int | None,
    search_seconds: float | None,
    threads: int | None,
    cuda_graph: bool,
    layers: bool,
    output: Path | None,
    wandb: str | None,
    as_json: bool,
) -> None:
    """Measure the latency or throughput of ENGINE on this machine, in one of MLPerf's scenarios.

    \b
    Example:
      deploykit bench engines/efficientnet-phi3/model.int8.cpu.onnx --batch 1,8 -o records
    """
    keeper = Keeper(folder=output, project=wandb)
    keeper.prepare()
    if layers:
        if (max_latency, scenario, scope) != (None, "single-stream", "end-to-end"):
            raise DeployError(
                "--layers times one run after another, so scenarios do not apply.",
                code="option-not-applicable",
                fix="remove --scenario, --scope and --max-latency, or remove --layers",
            )
        if (seconds, samples, search_seconds) != (None, None, None):
            raise DeployError(
                f"--layers always times {MEASURED_RUNS} runs.",
                code="option-not-applicable",
                fix="remove --seconds, --samples and --search-seconds, or remove --layers",
            )
        _profile(engine, _batches(batch), threads, keeper, cuda_graphs=cuda_graph, as_json=as_json)
        return
    bound_ms, records = parse_duration_ms(max_latency), []
    _require_batches(engine, _batches(batch))
    for size in _batches(batch):
        with show_progress("measuring") as progress:
            record = benchmark(
                engine,
                scenario=scenario,
                scope=scope,
                batch=size,
                max_latency_ms=bound_ms,
                seconds=DEFAULT_SECONDS if seconds is None else seconds,
                samples=DEFAULT_SAMPLES if samples is None else samples,
                search_seconds=search_seconds,
                threads=threads,
                cuda_graphs=cuda_graph,
                progress=progress,
            )
        records.append((record, keeper.keep(record)))
    if as_json:
        print_json({"records": [_fields(record, kept) for record, kept in records]})
        return
    first = records[0][0]
    print(f"{engine}: {first.engine.precision.upper()} on {first.machine.name}, {first.runtime}")
    _print_figures([record for record, _ in records])
    print(f"method: {_method(first)}; with 95 % confidence intervals")
    for record, kept in records:
        for caveat in record.caveats:
            print(f"batch {record.method.batch}: {caveat}")
        kept.print()


def _profile(
    engine: Path,
    batches: tuple[int | None, ...],
    threads: int | None,
    keeper: Keeper,
    *,
    cuda_graphs: bool,
    as_json: bool,
) -> None:
    found = []
    for batch in batches:
        with show_progress("timing layers"):
            profile = profile_engine(engine, batch=batch, threads=threads, cuda_graphs=cuda_graphs)
        found.append((profile, keeper.keep(profile)))
    if as_json:
        print_json(
            {
                "profiles": [
                    {**_values(kept), "remarks": profile.run_caveats, **_values(profile)}
                    for profile, kept in found
                ]
            }
        )
        return
    for profile, kept in found:
        _print_profile(profile)
        kept.print()
    print(
        "bound: the shortest time for these MACs and bytes, at the CPU's measured or the GPU's published peak"
    )
    layers = [layer for profile, _ in found for layer in profile.layers]
    if beating := sum(layer.beats_bound for layer in layers):
        why = explain_beaten_bounds(found[0][0])
        print(f"*: faster than the bound ({beating} of {len(layers)} layers). {why}")


def _print_profile(profile: LayerProfile) -> None:
    print(f"{profile.engine.name}, batch {profile.batch}:")
    total_ms = sum(layer.ms for layer in profile.layers)
    slowest = sorted(profile.layers, key=lambda each: -each.ms)[:_SLOWEST]
    for title, rows in (
        ("block", sum_by_block(profile.layers)),
        ("kind of kernel", sum_by_kind(profile.layers)),
        (f"slowest {_SLOWEST} layers", slowest),
    ):
        _print_layers(title, rows, total_ms=total_ms)
        print()
    for caveat in profile.run_caveats:
        print(f"batch {profile.batch}: {caveat}")


def _print_layers(title: str, rows: list[LayerTime], *, total_ms: float) -> None:
    print_table(
        (title, "time", "share", "MACs", "moved", "bound", "time / bound"),
        [
            (
                row.name,
                f"{row.ms:.3f} ms",
                f"{100 * row.ms / total_ms:.1f} %",
                f"{row.macs / 1e6:.1f} M" if row.macs else "",
                "" if row.size_bytes is None else f"{row.size_bytes / 1e6:.2f} MB",
                "" if row.bound_ms is None else f"{row.bound_ms:.3f} ms",
                f"{row.ms / row.bound_ms:.1f}{' *' if row.beats_bound else ''}" if row.bound_ms else "",
            )
            for row in rows
        ],
    )


def _batches(text: str | None) -> tuple[int | None, ...]:
    """Return the sizes in `1,8,32`; without a text, None for the size the engine is tuned for."""
    return (None,) if text is None else parse_numbers(text, int, option="--batch", example="1,8,32")


def _require_batches(engine: Path, batches: tuple[int | None, ...]) -> None:
    """Refuse an unsupported batch size before any is measured; a bundle is checked when it is loaded."""
    if len(batches) > 1 and not is_bundle(engine):
        manifest = read_engine_manifest(engine)
        for size in batches:
            if size is not None:
                manifest.profile_for((size, *manifest.input.shape), manifest.input.dtype)


def _print_figures(records: list[Record]) -> None:
    if records[0].method.scenario == "single-stream":
        columns = ("batch", *(f"p{percent}" for percent in PERCENTILES), "throughput", "calls")
        rows = [
            (
                record.method.batch,
                *(_percentile(record, percent) for percent in PERCENTILES),
                # partial scopes have no throughput
                f"{record.images_per_s.value:.4g} images/s" if record.method.scope == "end-to-end" else "",
                len(record.latency_ms),
            )
            for record in records
        ]
    elif records[0].method.scenario == "offline":
        columns = ("batch", "throughput", "calls")
        rows = [
            (record.method.batch, _interval(record.images_per_s, "images/s"), len(record.latency_ms))
            for record in records
        ]
    else:
        columns = ("batch", "holds", "does not hold", f"p{SERVER_PERCENTILE} there", "images")
        rows = [
            (
                f"up to {record.method.batch}",
                f"{record.images_per_s.value:.4g} images/s",
                "" if record.images_per_s.high is None else f"{record.images_per_s.high:.4g} images/s",
                _interval(record.percentile_ms(SERVER_PERCENTILE), "ms"),
                len(record.latency_ms),
            )
            for record in records
        ]
    print_table(columns, rows)


def _percentile(record: Record, percent: float) -> str:
    """Return a percentile, marked with ~ if there are too few calls for it."""
    mark = "~" if len(record.latency_ms) < required_samples(percent) else ""
    return f"{mark}{_interval(record.percentile_ms(percent), 'ms')}"


def _interval(estimate: Estimate, unit: str) -> str:
    return f"{estimate.value:.4g} {unit}{f' ({estimate.interval})' if estimate.interval else ''}"


def _method(record: Record) -> str:
    method = record.method
    how = describe_execution(threads=method.threads, cuda_graph=method.cuda_graph)
    parts: list[str] = [method.scenario, method.scope, how]
    if method.max_latency_ms is not None:
        parts.append(f"p{SERVER_PERCENTILE} within {method.max_latency_ms:g} ms, Poisson arrivals")
    return ", ".join([*parts, f"warm-up until steady ({len(record.warm_up_ms)} calls)"])


def _fields(record: Record, kept: Kept) -> dict[str, Any]:
    """Return the figures with the record they come from."""
    return {
        **_values(kept),
        **{f"p{percent}_ms": record.percentile_ms(percent) for percent in PERCENTILES},
        "images_per_s": record.images_per_s,
        "remarks": record.caveats,
        **_values(record),
    }


def _values(record: Record | LayerProfile | Kept) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
