from pathlib import Path

import click

from deploykit.bench.measure import DEFAULT_SECONDS, SAMPLES_FOR_P99
from deploykit.bench.record import benchmark
from deploykit.cli.output import json_option, print_json, print_table, progress_bar


@click.command(name="bench")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--batch", type=int, help="Images a call; default: what the engine is tuned for.")
@click.option("--seconds", type=float, default=DEFAULT_SECONDS, show_default=True, help="Time to measure.")
@click.option("--threads", type=int, help="CPU threads; default: one a core.")
@json_option
def command(engine: Path, batch: int | None, seconds: float, threads: int | None, as_json: bool) -> None:
    """Measure the latency of ENGINE on this machine, one batch after another.

    \b
    Example:
      deploykit bench engines/efficientnet-phi3/model.int8.cpu.onnx
    """
    with progress_bar("measuring") as progress:
        record = benchmark(
            engine,
            batch=batch,
            seconds=seconds,
            threads=threads,
            progress=lambda fraction: progress(fraction, 1.0),
        )
    if as_json:
        print_json(record.summary())
        return
    samples = record.samples
    print(f"{engine}: {record.manifest.precision.upper()} on {record.machine}, batch {samples.batch}")
    print_table(
        ("", "p50", "p90", "p99", "throughput", "samples", "warm-up"),
        [
            (
                "latency",
                *(f"{samples.percentile_ms(percent):.2f} ms" for percent in (50, 90, 99)),
                f"{samples.images_per_s:.1f} images/s",
                len(samples.latency_ms),
                f"{len(samples.warm_up_ms)} calls",
            )
        ],
    )
    method = record.method
    threads_used = f", {method['threads']} threads" if method["threads"] else ""
    print(f"method: {method['scenario']}, {method['scope']}, warm-up {method['warm_up']}{threads_used}")
    count = len(samples.latency_ms)
    if count < SAMPLES_FOR_P99:
        print(
            f"p99 of {count} samples is rough: {SAMPLES_FOR_P99} are wanted, which a longer --seconds gives."
        )
