"""Read the latencies that deploykit measured on GPUs from the committed records."""

from collections.abc import Iterator
from pathlib import Path

from cost_model.published import PublishedLatency
from deploykit.bench.record import MeasuredEngine, Record
from deploykit.bench.record_file import read_record_folder
from deploykit.gpu_catalog.gpus import find_gpu
from deploykit.networks.families.registry import FAMILIES
from deploykit.util.errors import DeployError


def read_recorded(folder: Path) -> tuple[PublishedLatency, ...]:
    """Return the records that are comparable with published figures.

    These are medians of device time with a CUDA graph, for published networks in FP16. INT8 is left out:
    published engines use INT8 throughout, while deploykit's keep depthwise convolutions in FP16.
    """
    folders = sorted({path.parent for path in folder.rglob("*.json")})
    records = [record for each in folders for record in read_record_folder(each).records.values()]
    return tuple(row for record in records if isinstance(record, Record) for row in _rows(record))


def _rows(record: Record) -> Iterator[PublishedLatency]:
    """Yield the row of a record, if it is comparable."""
    method, engine = record.method, record.engine
    member = _find_member(engine)
    if (method.scenario, method.scope, engine.precision) != ("single-stream", "device", "fp16"):
        return
    if record.machine.kind != "gpu" or not method.cuda_graph or member is None:
        return
    try:
        gpu = find_gpu(record.machine.name).name
    except DeployError:  # the GPU is not in the catalog
        return
    yield PublishedLatency(
        runtime="tensorrt",
        gpu=gpu,
        family=engine.family,
        network=member,
        side_px=engine.side_px,
        precision="fp16",
        batch=method.batch,
        latency_ms=record.percentile_ms(50).value,
    )


def _find_member(engine: MeasuredEngine) -> str | None:
    """Return the published member with this depth and width; the side is stored in the row."""
    family = FAMILIES.get(engine.family)
    members = {} if family is None else family.members
    key = (engine.depth, engine.width)
    return next((name for name, each in members.items() if (each.depth, each.width) == key), None)
