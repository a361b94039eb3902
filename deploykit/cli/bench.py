import dataclasses
from pathlib import Path
from typing import Any, get_args

import click

from deploykit.bench.benchmark import benchmark
from deploykit.bench.layers import LayerTime, by_block, by_kind
from deploykit.bench.profiling import profile_layers
from deploykit.bench.record import PERCENTILES, Record, Scope, write_record
from deploykit.bench.scenarios import DEFAULT_SAMPLES, DEFAULT_SECONDS, Scenario
from deploykit.bench.server import SERVER_PERCENT
from deploykit.bench.statistics import Estimate
from deploykit.cli.output import json_option, phases, print_json, print_table
from deploykit.cli.units import duration_ms
from deploykit.errors import DeployError
from deploykit.files import require_writable

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
@click.option(
    "--seconds", type=float, default=DEFAULT_SECONDS, show_default=True, help="Measure so long at least."
)
@click.option(
    "--samples", type=int, default=DEFAULT_SAMPLES, show_default=True, help="Measure so many calls at least."
)
@click.option("--threads", type=int, help="CPU threads; default: one a core.")
@click.option("--cuda-graph/--no-cuda-graph", default=True, show_default=True, help="On a GPU.")
@click.option("--layers", is_flag=True, help="Time by layer, beside the roofline's bound.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A folder to write the records to.")
@json_option
def command(
    engine: Path,
    scenario: Scenario,
    scope: Scope,
    batch: str | None,
    max_latency: str | None,
    seconds: float,
    samples: int,
    threads: int | None,
    cuda_graph: bool,
    layers: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure ENGINE on this machine, in one of MLPerf's scenarios.

    \b
    Example:
      deploykit bench engines/efficientnet-phi3/model.int8.cpu.onnx --batch 1,8 -o records
    """
    if layers:
        others = (max_latency, scenario, scope) != (None, "single-stream", "end-to-end")
        if output is not None or others:
            raise DeployError(
                "--layers prints times by layer, and has no scenario and no record.",
                fix="leave out --scenario, --scope, --max-latency and -o, or --layers",
            )
        _profile(engine, _batches(batch), threads, cuda_graphs=cuda_graph, as_json=as_json)
        return
    if output is not None:
        require_writable(output / "record.json")  # now rather than after measuring
    bound_ms, records = duration_ms(max_latency), []
    for size in _batches(batch):
        with phases("measuring") as progress:
            record = benchmark(
                engine,
                scenario=scenario,
                scope=scope,
                batch=size,
                max_latency_ms=bound_ms,
                seconds=seconds,
                samples=samples,
                threads=threads,
                cuda_graphs=cuda_graph,
                progress=lambda phase, fraction: progress(
                    phase if fraction is None else f"{phase}, {100 * min(fraction, 1):.0f} %"
                ),
            )
        path = write_record(record, output) if output else None
        records.append((record, path))
    if as_json:
        print_json({"records": [_fields(record, path) for record, path in records]})
        return
    first = records[0][0]
    print(f"{engine}: {first.engine.precision.upper()} on {first.machine.name}, {first.runtime}")
    _print_figures([record for record, _ in records])
    print(f"method: {_method(first)}; intervals hold with 95 % confidence")
    for record, path in records:
        for remark in record.remarks:
            print(f"batch {record.method.batch}: {remark}")
        if path is not None:
            print(f"record: {path}")


def _profile(
    engine: Path, batches: list[int | None], threads: int | None, *, cuda_graphs: bool, as_json: bool
) -> None:
    found = []
    for batch in batches:
        with phases("timing layers"):
            layers = profile_layers(engine, batch=batch, threads=threads, cuda_graphs=cuda_graphs)
        found.append((batch, layers))
    if as_json:
        print_json({"profiles": [{"batch": batch, "layers": layers} for batch, layers in found]})
        return
    for batch, layers in found:
        if batch is not None:
            print(f"batch {batch}:")
        for title, rows in (
            ("block", by_block(layers)),
            ("kind of kernel", by_kind(layers)),
            (f"slowest {_SLOWEST} layers", sorted(layers, key=lambda each: -each.ms)[:_SLOWEST]),
        ):
            _print_layers(title, rows, total_ms=sum(layer.ms for layer in layers))
            print()
    print(
        "bound: the least that so many MACs and bytes take, on a CPU as measured, on a GPU by its datasheet"
    )


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
                f"{row.ms / row.bound_ms:.1f}" if row.bound_ms else "",
            )
            for row in rows
        ],
    )


def _batches(text: str | None) -> list[int | None]:
    """`1,8,32`; without a text what the engine is tuned for."""
    if text is None:
        return [None]
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise DeployError(f"{text!r} are no batch sizes.", fix="write --batch 1,8,32") from error


def _print_figures(records: list[Record]) -> None:
    if records[0].method.scenario == "single-stream":
        columns = ("batch", *(f"p{percent}" for percent in PERCENTILES), "throughput", "calls")
        rows = [
            (
                record.method.batch,
                *(_interval(record.percentile_ms(percent), "ms") for percent in PERCENTILES),
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
        columns = ("batch", "holds", "does not hold", f"p{SERVER_PERCENT} there", "images")
        rows = [
            (
                f"up to {record.method.batch}",
                f"{record.images_per_s.value:.4g} images/s",
                f"{record.images_per_s.high:.4g} images/s",
                _interval(record.percentile_ms(SERVER_PERCENT), "ms"),
                len(record.latency_ms),
            )
            for record in records
        ]
    print_table(columns, rows)


def _interval(estimate: Estimate, unit: str) -> str:
    return f"{estimate.value:.4g} {unit} ({estimate.low:.4g} to {estimate.high:.4g})"


def _method(record: Record) -> str:
    method = record.method
    parts: list[str] = [method.scenario, method.scope]
    if method.threads is not None:
        parts.append(f"{method.threads} threads")
    if method.cuda_graph is not None:
        parts.append("CUDA graphs" if method.cuda_graph else "no CUDA graphs")
    if method.max_latency_ms is not None:
        parts.append(f"p{SERVER_PERCENT} within {method.max_latency_ms:g} ms, Poisson arrivals")
    return ", ".join([*parts, f"warm-up until steady ({len(record.warm_up_ms)} calls)"])


def _fields(record: Record, path: Path | None) -> dict[str, Any]:
    """The figures, and everything that they come from."""
    return {
        "path": path,
        **{f"p{percent}_ms": record.percentile_ms(percent) for percent in PERCENTILES},
        "images_per_s": record.images_per_s,
        "remarks": record.remarks,
        **{field.name: getattr(record, field.name) for field in dataclasses.fields(record)},
    }
