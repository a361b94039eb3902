"""What a call of Engine costs over TensorRT's own, on the GPU of this machine.

    python benchmarks/gpu_runtime.py

Raw is execute_async_v3 on one stream, from memory of the GPU to memory of the GPU, and waiting; the others do
the same work through deploykit, in turn with it. Medians of microseconds. Has not been run: no GPU has been
at hand.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.engine.build import build_engine
from deploykit.engine.manifest import EngineManifest
from deploykit.engine.shapes import BatchRange
from deploykit.networks.export import prepare_export
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.runtime import Engine
from deploykit.runtime.tensorrt.execution_context import view_host_memory
from deploykit.runtime.tensorrt.plan import create_execution_context, deserialize_plan
from deploykit.util.local_gpu import ORDINAL, local_gpu

PHIS, BATCHES, ROUNDS = (0, 3, 7), (1, 8), 500


def main() -> None:
    gpu = local_gpu()
    if gpu is None:
        print("needs an NVIDIA GPU, and there is none here")
        return
    print(f"{gpu.name} (SM{gpu.sm}), FP16, microseconds a call")
    print("| phi | batch | raw | from GPU memory | over raw | from host memory | without CUDA graphs |")
    print("|---|---|---|---|---|---|---|")
    for phi in PHIS:
        for batch in BATCHES:
            with tempfile.TemporaryDirectory() as folder:
                print(_row(phi, batch, Path(folder)), flush=True)


def _row(phi: float, batch: int, folder: Path) -> str:
    model = folder / "model.onnx"
    model.write_bytes(to_bytes(build_onnx_model(*prepare_export(phi))))
    only = BatchRange(min=batch, opt=batch, max=batch)
    built = build_engine(onnx=model, gpu="local", batches=[only])
    images = np.random.default_rng(0).standard_normal((batch, *built.manifest.input.shape), np.float32)
    with Engine.load(built.path) as graphs, Engine.load(built.path, cuda_graphs=False) as launches:
        raw, buffer, stream = _raw(built.path, built.manifest, images)

        def on_device() -> None:
            graphs.submit(buffer, stream=int(stream.handle)).result()
            stream.sync()

        calls = (raw, on_device, lambda: graphs(images), lambda: launches(images))
        us = _medians_us(calls)
    cells = (f"{phi:g}", batch, *(f"{each:.1f}" for each in (us[0], us[1], us[1] - us[0], us[2], us[3])))
    return f"| {' | '.join(map(str, cells))} |"


def _raw(path: Path, manifest: EngineManifest, images: np.ndarray) -> tuple[Callable[[], None], Any, Any]:
    """TensorRT's own call, the images it reads, and the stream it runs on."""
    from cuda.core import Device, LegacyPinnedMemoryResource

    device = Device(ORDINAL)
    device.set_current()
    stream = device.create_stream()
    source, answer = (
        device.memory_resource.allocate(size, stream=stream)
        for size in (images.nbytes, 4 * len(images) * manifest.output.shape[0])
    )
    staged = LegacyPinnedMemoryResource().allocate(images.nbytes)
    view_host_memory(staged, images.shape, images.dtype)[...] = images
    source.copy_from(staged, stream=stream)
    stream.sync()
    runtime, engine = deserialize_plan(path, manifest)
    context = create_execution_context(engine, manifest)
    context.set_input_shape(manifest.input.name, images.shape)
    context.set_tensor_address(manifest.input.name, int(source.handle))
    context.set_tensor_address(manifest.output.name, int(answer.handle))
    kept = (runtime, engine, answer, staged)  # as long as the call is

    def call() -> None:
        assert kept
        context.execute_async_v3(int(stream.handle))
        stream.sync()

    return call, source, stream


def _medians_us(calls: tuple[Callable[[], object], ...]) -> list[float]:
    """Of each, called in turn."""
    samples: list[list[float]] = [[] for _ in calls]
    for number in range(ROUNDS + 50):
        for call, own in zip(calls, samples, strict=True):
            start = time.perf_counter_ns()
            call()
            if number >= 50:  # warm by then
                own.append((time.perf_counter_ns() - start) / 1000)
    return [statistics.median(own) for own in samples]


if __name__ == "__main__":
    main()
