"""Time by layer on the CPU, by ONNX Runtime's profiler."""

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deploykit.bench.images import random_images
from deploykit.bench.layers.layer_time import MEASURED_RUNS, WARM_UP_RUNS, LayerTime, make_layer_time
from deploykit.bench.layers.roofline import Roofline, measure_cpu_roofline
from deploykit.bench.record import resolve_cpu_threads
from deploykit.engine.audit.audit import CompiledLayer
from deploykit.engine.manifest import EngineManifest
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.util.types import Precision

_KERNEL = "_kernel_time"
_SIZES = ("activation_size", "parameter_size", "output_size")


class _Event(msgspec.Struct):
    """What ONNX Runtime's profiler writes of a kernel, as of version 1.31."""

    cat: str
    name: str
    dur: float
    args: dict[str, Any] = {}


def time_cpu_layers(
    path: Path, manifest: EngineManifest, *, batch: int, threads: int | None
) -> list[LayerTime]:
    """Each layer of an engine that this machine can run, with a batch that it takes."""
    events = _profiled(path, manifest, batch, threads)
    known = {layer.name: layer for layer in manifest.audit.layers}
    roofline = measure_cpu_roofline(resolve_cpu_threads(threads))
    return [_layer(name, found, known.get(name), batch, roofline) for name, found in events.items()]


def _profiled(
    path: Path, manifest: EngineManifest, size: int, threads: int | None
) -> dict[str, list[_Event]]:
    """The events of each kernel, of the runs after warm-up."""
    images = random_images((size, *manifest.input.shape), manifest.input.dtype)
    with tempfile.TemporaryDirectory() as folder:
        session = cpu_session(path, threads=threads, profile=Path(folder, "layers"))
        for _ in range(WARM_UP_RUNS + MEASURED_RUNS):
            session.run(None, {manifest.input.name: images})
        events = msgspec.json.decode(Path(session.end_profiling()).read_bytes(), type=list[_Event])
    kernels: dict[str, list[_Event]] = defaultdict(list)
    for event in events:
        if event.cat == "Node" and event.name.endswith(_KERNEL):
            kernels[event.name.removesuffix(_KERNEL)].append(event)
    return {name: found[WARM_UP_RUNS:] for name, found in kernels.items()}


def _layer(
    name: str, events: Sequence[_Event], known: CompiledLayer | None, batch: int, roofline: Roofline
) -> LayerTime:
    facts = events[0].args
    size_bytes = sum(int(facts.get(part, 0)) for part in _SIZES)
    if known and known.macs:
        size_bytes += _packed_weights(facts, known.precision)
    return make_layer_time(
        name,
        kind=str(facts.get("op_name", "")),
        node=known.nodes[0] if known and known.nodes else name,
        known=known,
        batch=batch,
        runs_ms=[event.dur / 1000 for event in events],
        size_bytes=size_bytes,
        roofline=roofline,
    )


def _packed_weights(facts: Mapping[str, Any], precision: Precision | None) -> int:
    """Bytes of a matrix product's weights, which are not among its inputs where they were packed before."""
    shapes = [next(iter(tensor.values())) for tensor in facts.get("input_type_shape", ())]
    if any(len(shape) > 1 for shape in shapes[1:]):
        return 0
    (answer,) = (next(iter(tensor.values())) for tensor in facts["output_type_shape"])
    return int(shapes[0][-1]) * int(answer[-1]) * (1 if precision == "int8" else 4)
