"""Time the layers of an engine on the CPU, with ONNX Runtime's profiler."""

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
    """A kernel event of ONNX Runtime's profiler, as of version 1.31."""

    cat: str
    name: str
    dur: float
    args: dict[str, Any] = {}


def time_cpu_layers(
    path: str | Path, manifest: EngineManifest, *, batch: int, threads: int | None
) -> list[LayerTime]:
    """Return the time of each layer of an engine that this machine can run, for a valid batch size."""
    events = _run_profiler(Path(path), manifest, batch, threads)
    compiled = {layer.name: layer for layer in manifest.audit.layers}
    roofline = measure_cpu_roofline(resolve_cpu_threads(threads))
    return [
        _to_layer_time(name, events_of_layer, compiled.get(name), batch, roofline)
        for name, events_of_layer in events.items()
    ]


def _run_profiler(
    path: Path, manifest: EngineManifest, size: int, threads: int | None
) -> dict[str, list[_Event]]:
    """Return the events of each kernel, from the runs after the warm-up."""
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
    return {name: events_of_layer[WARM_UP_RUNS:] for name, events_of_layer in kernels.items()}


def _to_layer_time(
    name: str, events: Sequence[_Event], compiled: CompiledLayer | None, batch: int, roofline: Roofline
) -> LayerTime:
    fields = events[0].args
    size_bytes = sum(int(fields.get(part, 0)) for part in _SIZES)
    if compiled and compiled.macs:
        size_bytes += _packed_weights(fields, compiled.precision)
    return make_layer_time(
        name,
        kind=str(fields.get("op_name", "")),
        node=compiled.nodes[0] if compiled and compiled.nodes else name,
        compiled=compiled,
        batch=batch,
        runs_ms=[event.dur / 1000 for event in events],
        size_bytes=size_bytes,
        roofline=roofline,
    )


def _packed_weights(fields: Mapping[str, Any], precision: Precision | None) -> int:
    """Return the bytes of a matrix product's weights if ONNX Runtime packed them and does not list them."""
    shapes = [next(iter(tensor.values())) for tensor in fields.get("input_type_shape", ())]
    if any(len(shape) > 1 for shape in shapes[1:]):
        return 0
    (output,) = (next(iter(tensor.values())) for tensor in fields["output_type_shape"])
    return int(shapes[0][-1]) * int(output[-1]) * (1 if precision == "int8" else 4)
