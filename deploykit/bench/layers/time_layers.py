"""Time each layer of an engine on this machine."""

from pathlib import Path

from deploykit.bench.layers.cpu import time_cpu_layers
from deploykit.bench.layers.gpu import time_gpu_layers
from deploykit.bench.layers.layer_time import LayerTime
from deploykit.engine.manifest import read_engine_manifest
from deploykit.runtime import Engine
from deploykit.runtime.engine import require_cpu_target
from deploykit.runtime.preflight import preflight


def time_layers(
    engine: str | Path, *, batch: int | None = None, threads: int | None = None, cuda_graphs: bool = True
) -> list[LayerTime]:
    """Time each layer of an engine: with ONNX Runtime's profiler on the CPU, with TensorRT's on a GPU.

    Args:
        batch: Images per call; default what the engine is tuned for.
        threads: CPU threads; default one per core.
        cuda_graphs: See runtime.Engine.load.

    Raises:
        DeployError: The engine cannot run here, does not take that batch, or is ONNX Runtime's for a GPU.
    """
    path = Path(engine)
    manifest = read_engine_manifest(path)
    size = batch if batch is not None else manifest.batches[0].opt
    manifest.profile_for((size, *manifest.input.shape), manifest.input.dtype)
    if manifest.target.on_cpu:
        preflight(path).require()
        return time_cpu_layers(path, manifest, batch=size, threads=threads)
    if threads is not None:
        require_cpu_target(manifest.target, threads)
    with Engine.load(path, cuda_graphs=cuda_graphs) as loaded:
        return time_gpu_layers(loaded, batch=size)
