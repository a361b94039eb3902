"""The layer times of an engine, as a record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from deploykit import __version__
from deploykit.bench.layers.layer_time import LayerTime
from deploykit.bench.layers.time_layers import time_layers
from deploykit.bench.machine import (
    Machine,
    MachineState,
    describe_disturbances,
    describe_machine,
    read_machine_state,
)
from deploykit.bench.record import BatchSize, CoreCount, MeasuredEngine, resolve_cpu_threads, utc_timestamp
from deploykit.engine.manifest import read_engine_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProfile:
    """The times of the layers of an engine.

    Attributes:
        threads: CPU threads; None on a GPU.
        before, after: See bench.machine; None in older records.
        started: UTC, ISO 8601.
        layers: In execution order.
    """

    engine: MeasuredEngine
    machine: Machine
    batch: BatchSize
    threads: CoreCount | None
    cuda_graph: bool | None
    started: str
    layers: Annotated[tuple[LayerTime, ...], Meta(min_length=1)]
    before: MachineState | None = None
    after: MachineState | None = None
    deploykit_version: str = __version__
    kind: Literal["layers"] = "layers"
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        if not sum(layer.ms for layer in self.layers) > 0:
            raise ValueError("the layer times are all zero")

    @property
    def name(self) -> str:
        """Name of its file, without the time."""
        return f"{self.engine.name}.layers.b{self.batch}"

    @property
    def run_caveats(self) -> tuple[str, ...]:
        """What disturbed the measurement, one sentence each."""
        if self.before is None or self.after is None:
            return ()
        return describe_disturbances(self.machine, self.before, self.after)


def explain_beaten_bounds(profile: LayerProfile) -> str:
    """Explain in a sentence why a layer can be faster than its bound on that machine."""
    if profile.machine.kind == "cpu":
        return (
            "The bound assumes the bandwidth of a copy, half read and half written: a layer that reads more "
            "than it writes, or finds its input in a cache, can be faster."
        )
    return (
        "The bound assumes the bandwidth and peak of the datasheet: a layer that finds its input in the "
        "level-2 cache can be faster, as can one that accumulates in FP16 on a GeForce GPU."
    )


def profile_engine(
    engine: str | Path, *, batch: int | None = None, threads: int | None = None, cuda_graphs: bool = True
) -> LayerProfile:
    """Time each layer of an engine and return a record.

    Args:
        batch: Images per call; default what the engine is tuned for.
        threads: CPU threads; default one per core.
        cuda_graphs: See runtime.Engine.load.

    Raises:
        DeployError: As for time_layers.
    """
    path, started = Path(engine), utc_timestamp()
    manifest = read_engine_manifest(path)
    on_cpu = manifest.target.on_cpu
    before = read_machine_state(on_cpu=on_cpu)
    layers = time_layers(path, batch=batch, threads=threads, cuda_graphs=cuda_graphs)
    after = read_machine_state(on_cpu=on_cpu)
    return LayerProfile(
        engine=MeasuredEngine.from_manifest(path, manifest),
        machine=describe_machine(on_cpu=on_cpu),
        batch=batch if batch is not None else manifest.batches[0].opt,
        threads=resolve_cpu_threads(threads) if on_cpu else None,
        cuda_graph=None if on_cpu else cuda_graphs,
        started=started,
        layers=tuple(layers),
        before=before,
        after=after,
    )
