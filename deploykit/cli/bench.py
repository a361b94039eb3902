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
from deploykit.cli.units import duration_ms, numbers
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
    help="MLPerf's: one call after another; throughput; the highest rate that holds --max-latency.",
)
@click.option(
    "--scope",
    type=click.Choice(get_args(Scope)),
    default="end-to-end",
    show_default=True,
    help="Of a call: all; what the GPU takes to compute; what the host takes to enqueue.",
)
@click.option("--batch", metavar="N,N", help="Images a call, one record each; default: what it is tuned for.")
@click.option("--max-latency", metavar="10ms", help="What `server` holds at the 99th percentile.")
@click.option("--seconds", type=float, help=f"Measure so long at least; default: {DEFAULT_SECONDS:g}.")
@click.option("--samples", type=int, help=f"Measure so many calls at least; default: {DEFAULT_SAMPLES}.")
@click.option(
    "--search-seconds",
    type=float,
    help=f"How long `server` searches at most; default: {DEFAULT_SEARCH_SECONDS:g}.",
)
@click.option("--threads", type=int, help="CPU threads; default: one a core.")
@click.option("--cuda-graph/--no-cuda-graph", default=True, show_default=True, help="On a GPU.")
@click.option("--layers", is_flag=True, help="Time by layer, beside the roofline's bound.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A folder to write the records to.")
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
    """Measure ENGINE on this machine, in one of MLPerf's scenarios.

    \b
    Example:
      deploykit bench engines/efficientnet-phi3/model.int8.cpu.onnx --batch 1,8 -o records
    """
    keeper = Keeper(folder=output, project=wandb)
    keeper.prepare()
    if layers:
        if (max_latency, scenario, scope) != (None, "single-stream", "end-to-end"):
            raise DeployError(
                "--layers times layers, one run after another, and has no scenario.",
                code="option-not-applicable",
                fix="leave out --scenario, --scope and --max-latency, or --layers",
            )
        if (seconds, samples, search_seconds) != (None, None, None):
            raise DeployError(
                f"--layers times {MEASURED_RUNS} runs, however long they take.",
                code="option-not-applicable",
                fix="leave out --seconds, --samples and --search-seconds, or --layers",
            )
        _profile(engine, _batches(batch), threads, keeper, cuda_graphs=cuda_graph, as_json=as_json)
        return
    bound_ms, records = duration_ms(max_latency), []
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
    print(f"method: {_method(first)}; intervals hold with 95 % confidence")
    for record, kept in records:
        for remark in record.caveats:
            print(f"batch {record.method.batch}: {remark}")
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
        "bound: the least that so many MACs and bytes take, on a CPU as measured, on a GPU by its datasheet"
    )
    layers = [layer for profile, _ in found for layer in profile.layers]
    if beating := sum(layer.beats_bound for layer in layers):
        why = explain_beaten_bounds(found[0][0])
        print(f"*: faster than that, as {beating} of {len(layers)} layers are. {why}")


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
    for doubt in profile.run_caveats:
        print(f"batch {profile.batch}: {doubt}")


def _print_layers(title: str, rows: list[LayerTime], *, total_ms: float) -> None:
    print_table(
        (title, "time", "of all", "MACs", "moved", "bound", "time / bound"),
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
    """`1,8,32`; without a text what the engine is tuned for."""
    return (None,) if text is None else numbers(text, int, option="--batch", example="1,8,32")


def _require_batches(engine: Path, batches: tuple[int | None, ...]) -> None:
    """Fails before the first is measured where a later one can't be; a bundle tells when it is loaded."""
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
                # of a part of the calls there is none
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
    """Marked where it is of fewer calls than it takes."""
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
    """The figures, and everything that they come from."""
    return {
        **_values(kept),
        **{f"p{percent}_ms": record.percentile_ms(percent) for percent in PERCENTILES},
        "images_per_s": record.images_per_s,
        "remarks": record.caveats,
        **_values(record),
    }


def _values(record: Record | LayerProfile | Kept) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
