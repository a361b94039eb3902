"""A network of a family, built with random weights, which is right for latency, and measured here."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploykit.architecture.member import Member
from deploykit.bench.benchmark import benchmark
from deploykit.bench.record import Record
from deploykit.engine.shapes import BatchRange
from deploykit.export import prepare
from deploykit.model_file import Precision, to_bytes
from deploykit.models.onnx_graph import onnx_model
from deploykit.pipeline import build_engine

SECONDS, CALLS = 2.0, 100  # of a measurement, at least; p90 takes a hundred calls


def onnx_sha256(member: Member) -> str:
    """Digest of the model that is built, as records have it."""
    return hashlib.sha256(_model(member)).hexdigest()


def _model(member: Member) -> bytes:
    return to_bytes(onnx_model(*prepare(member)))


@contextmanager
def built(
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
    member: Member, *, gpu: str, precision: Precision | None = None, batch: int = 1, seconds: float = SECONDS
) -> Record:
    """One request after another, of so many images.

    Args:
        gpu: `cpu`, `local`, or the name of the GPU that is here.
        precision: default what the target runs best.

    Raises:
        DeployError: see built.
    """
    only = BatchRange(min=batch, opt=batch, max=batch)
    with built(member, gpu=gpu, precision=precision, batches=[only]) as engine:
        return benchmark(engine, seconds=seconds, samples=CALLS)
