"""Time by layer on a GPU, by TensorRT's profiler.

Not yet run on a GPU: none has been at hand.
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
    """Each layer of an engine, in the order they run.

    Raises:
        DeployError: the engine doesn't take that batch, or is none of TensorRT's.
    """
    manifest = engine.manifest
    images = random_images((batch, *manifest.input.shape), manifest.input.dtype)
    with engine.profile_layers(images) as call:
        runs = [call.layers_ms() for _ in range(WARM_UP_RUNS + MEASURED_RUNS)][WARM_UP_RUNS:]
    known = {layer.name: layer for layer in manifest.audit.layers}
    gpu = local_gpu()
    roofline = look_up_gpu_roofline(gpu.name) if gpu else None
    return [
        _layer(name, [run.get(name, 0.0) for run in runs], known.get(name), batch, roofline)
        for name in dict.fromkeys(name for run in runs for name in run)
    ]


def _layer(
    name: str, runs_ms: Sequence[float], known: CompiledLayer | None, batch: int, roofline: Roofline | None
) -> LayerTime:
    traffic = known.traffic if known else None
    return make_layer_time(
        name,
        kind=known.kind if known else "",
        node=known.nodes[0] if known and known.nodes else None,
        known=known,
        batch=batch,
        runs_ms=runs_ms,
        size_bytes=traffic.size_bytes(batch) if traffic else None,
        roofline=roofline,
    )
