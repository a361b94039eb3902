"""A network of a family, built with random weights, which is right for latency, and measured here."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploykit.bench.benchmark import benchmark
from deploykit.bench.record import Record
from deploykit.engine.pipeline import build_engine
from deploykit.engine.shapes import BatchRange
from deploykit.networks.export import prepare_export
from deploykit.networks.member import Member
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.stats.latency_percentiles import required_samples
from deploykit.util.types import Precision

MIN_SECONDS, MIN_CALLS = 2.0, 100  # of a measurement, at least; p90 takes a hundred calls
MAX_EXTRA_SECONDS = 20.0  # that measurements of one network are made longer for, together


def random_model_sha256(member: Member) -> str:
    """Digest of the model that is built, as records have it."""
    return hashlib.sha256(_model(member)).hexdigest()


def _model(member: Member) -> bytes:
    return to_bytes(build_onnx_model(*prepare_export(member)))


@contextmanager
def build_random_engine(
    member: Member, *, gpu: str, precision: Precision | None, batches: Sequence[BatchRange]
) -> Iterator[Path]:
    """Its engine, in a folder of its own that goes in the end.

    Raises:
        DeployError: no such GPU, or one that has no such precision.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, f"{member.name}.onnx")
        model.write_bytes(_model(member))
        yield build_engine(onnx=model, precision=precision, gpu=gpu, batches=batches).path


def measure_latency(
    member: Member,
    *,
    gpu: str,
    precision: Precision | None = None,
    batch: int = 1,
    percentile: float | None = None,
) -> Record:
    """One request after another, of so many images.

    Args:
        gpu: `cpu`, `local`, or the name of the GPU that is here.
        precision: default what the target runs best.
        percentile: measured again, for longer, until there are samples enough to bound it.

    Raises:
        DeployError: see built.
    """
    only = BatchRange(min=batch, opt=batch, max=batch)
    with build_random_engine(member, gpu=gpu, precision=precision, batches=[only]) as engine:
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
    """Seconds to measure after a run that bounds no percentile; None where what is left would not do either.

    Args:
        took_s, count: of that run, and its samples.
    """
    needed_s = 1.1 * required_samples(percentile) * took_s / count
    if percentile == 100 or left_s < max(needed_s, 1.5 * took_s):
        return None
    return min(left_s, max(needed_s, 2 * took_s))
