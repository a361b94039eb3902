"""Time the layers of an engine on a GPU, with TensorRT's profiler.

This has not run on a GPU yet.
"""

from collections.abc import Sequence

from deploykit.bench.images import random_images
from deploykit.bench.layers.gpu_roofline import look_up_gpu_roofline
from deploykit.bench.layers.layer_time import MEASURED_RUNS, WARM_UP_RUNS, LayerTime, make_layer_time
from deploykit.bench.layers.roofline import Roofline
from deploykit.engine.audit.audit import CompiledLayer
from deploykit.runtime import Engine
from deploykit.util.local_gpu import local_gpu


def time_gpu_layers(engine: Engine, *, batch: int) -> list[LayerTime]:
    """Return the time of each layer of an engine, in execution order.

    Raises:
        DeployError: The engine does not take that batch, or is not a TensorRT engine.
    """
    manifest = engine.manifest
    images = random_images((batch, *manifest.input.shape), manifest.input.dtype)
    with engine.profile_layers(images) as call:
        runs = [call.layers_ms() for _ in range(WARM_UP_RUNS + MEASURED_RUNS)][WARM_UP_RUNS:]
    compiled = {layer.name: layer for layer in manifest.audit.layers}
    gpu = local_gpu()
    roofline = look_up_gpu_roofline(gpu.name) if gpu else None
    return [
        _to_layer_time(name, [run.get(name, 0.0) for run in runs], compiled.get(name), batch, roofline)
        for name in dict.fromkeys(name for run in runs for name in run)
    ]


def _to_layer_time(
    name: str, runs_ms: Sequence[float], compiled: CompiledLayer | None, batch: int, roofline: Roofline | None
) -> LayerTime:
    traffic = compiled.traffic if compiled else None
    return make_layer_time(
        name,
        kind=compiled.kind if compiled else "",
        node=compiled.nodes[0] if compiled and compiled.nodes else None,
        compiled=compiled,
        batch=batch,
        runs_ms=runs_ms,
        size_bytes=traffic.size_bytes(batch) if traffic else None,
        roofline=roofline,
    )
