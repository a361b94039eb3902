"""A measurement with its method and its machine, as JSON."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.bench.measure import DEFAULT_SECONDS, Samples, time_calls
from deploykit.engine.manifest import Manifest
from deploykit.errors import DeployError
from deploykit.local_gpu import local_gpu
from deploykit.runtime import Engine

MAX_THREADS = 1024
SCENARIO = "single-stream"
SCOPE = "host: from the call to the answer in host memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A measurement, with all its samples.

    Attributes:
        engine: the file that was measured.
        threads: CPU threads it ran on; None on a GPU.
        machine: what it ran on, in words.
    """

    engine: Path
    manifest: Manifest
    samples: Samples
    seconds: float
    threads: int | None
    machine: str

    @property
    def method(self) -> dict[str, Any]:
        return {
            "scenario": SCENARIO,
            "scope": SCOPE,
            "warm_up": "until steady",
            "warm_up_calls": len(self.samples.warm_up_ms),
            "seconds": self.seconds,
            "threads": self.threads,
        }

    def summary(self) -> dict[str, Any]:
        """Everything as plain values, every sample among them."""
        samples = self.samples
        return {
            "engine": str(self.engine),
            "precision": self.manifest.precision,
            "target": self.manifest.target.title,
            "engine_sha256": self.manifest.engine_sha256,
            "batch": samples.batch,
            **{f"p{percent}_ms": samples.percentile_ms(percent) for percent in (50, 90, 99)},
            "images_per_s": samples.images_per_s,
            "samples": len(samples.latency_ms),
            "method": self.method,
            "machine": self.machine,
            "compiler_version": self.manifest.compiler_version,
            **asdict(samples),
        }


def benchmark(
    engine: str | Path,
    *,
    batch: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    threads: int | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Record:
    """Measures an engine's single-stream latency on this machine.

    Args:
        engine: an engine this machine can run.
        batch: images a call; default what the engine is tuned for.
        threads: CPU threads; default one a core.

    Raises:
        DeployError: the engine is for another machine, or doesn't take that batch.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise DeployError(
            f"{threads} threads are not between 1 and {MAX_THREADS}.", fix="leave --threads out"
        )
    with Engine.load(engine, threads=threads) as loaded:
        manifest = loaded.manifest
        size = batch if batch is not None else manifest.batches[0].opt
        manifest.profile_for((size, *manifest.input.shape), manifest.input.dtype)
        images = _images((size, *manifest.input.shape), manifest.input.dtype)
        samples = time_calls(lambda: loaded(images), batch=size, seconds=seconds, progress=progress)
    on_cpu = manifest.target.on_cpu
    return Record(
        engine=Path(engine),
        manifest=manifest,
        samples=samples,
        seconds=seconds,
        threads=(threads or len(os.sched_getaffinity(0))) if on_cpu else None,
        machine=machine_name(on_cpu=on_cpu),
    )


def _images(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    generator = np.random.default_rng(0)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.standard_normal(shape, np.float32)


def machine_name(*, on_cpu: bool) -> str:
    """The processor's or GPU's name."""
    gpu = local_gpu()
    if gpu is not None and not on_cpu:
        return f"{gpu.name} (SM{gpu.sm})"
    models = {line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")}
    return ", ".join(sorted(models)) or platform.machine()


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
