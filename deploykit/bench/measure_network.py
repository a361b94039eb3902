"""Measure a network here: build it with random weights, which do not change latency."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploykit.bench.benchmark import benchmark
from deploykit.bench.record import Record
from deploykit.engine.build import build_engine
from deploykit.engine.shapes import BatchRange
from deploykit.networks.export import prepare_export
from deploykit.networks.member import Member
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.stats.latency_percentiles import required_samples
from deploykit.util.types import Precision

MIN_SECONDS, MIN_CALLS = 2.0, 100  # of a measurement; p90 takes a hundred calls
MAX_EXTRA_SECONDS = 20.0  # total time spent on measuring one network again, for longer


def random_model_sha256(member: Member) -> str:
    """Return the digest of the model that is built, as records contain it."""
    return hashlib.sha256(_random_model_bytes(member)).hexdigest()


def _random_model_bytes(member: Member) -> bytes:
    return to_bytes(build_onnx_model(*prepare_export(member)))


@contextmanager
def build_random_engine(
    member: Member, *, gpu: str, precision: Precision | None, batches: Sequence[BatchRange]
) -> Iterator[Path]:
    """Build the network's engine in a temporary folder that is deleted when the block ends.

    Raises:
        DeployError: The GPU is unknown or does not support the precision.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, f"{member.name}.onnx")
        model.write_bytes(_random_model_bytes(member))
        yield build_engine(onnx=model, precision=precision, gpu=gpu, batches=batches).path


def measure_latency(
    member: Member,
    *,
    gpu: str,
    precision: Precision | None = None,
    batch: int = 1,
    percentile: float | None = None,
) -> Record:
    """Measure the latency of one call after another.

    Args:
        gpu: `cpu`, `local`, or the name of this machine's GPU.
        precision: Default: what the target runs best.
        batch: Images per call.
        percentile: Measure again, for longer, until there are enough samples to bound this percentile.

    Raises:
        DeployError: As for `build_random_engine`.
    """
    batch_range = BatchRange(min=batch, opt=batch, max=batch)
    with build_random_engine(member, gpu=gpu, precision=precision, batches=[batch_range]) as engine:
        record = benchmark(engine, seconds=MIN_SECONDS, samples=MIN_CALLS)
        spent_s = record.seconds
        while percentile is not None and record.percentile_ms(percentile).high is None:
            longer_s = longer_duration_s(
                record.seconds, len(record.latency_ms), percentile, left_s=MAX_EXTRA_SECONDS - spent_s
            )
            if longer_s is None:
                break
            record = benchmark(engine, seconds=longer_s, samples=MIN_CALLS)
            spent_s += record.seconds
    return record


def longer_duration_s(took_s: float, count: int, percentile: float, *, left_s: float) -> float | None:
    """Return how long to measure again after a run that did not bound a percentile.

    Args:
        took_s, count: Duration and number of samples of that run.
        left_s: Time left, s.

    Returns:
        Seconds; None if the time left is too short to bound it.
    """
    needed_s = 1.1 * required_samples(percentile) * took_s / count
    if percentile == 100 or left_s < max(needed_s, 1.5 * took_s):
        return None
    return min(left_s, max(needed_s, 2 * took_s))
