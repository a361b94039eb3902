"""A measurement with its method, its machine and every sample."""

import os
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from deploykit import __version__
from deploykit.bench.machine import Machine, MachineState, describe_disturbances
from deploykit.bench.scenarios import Scenario
from deploykit.bench.server_scenario import SEARCH_TOLERANCE, Trial
from deploykit.engine.manifest import EngineManifest
from deploykit.networks.scaling import Rule, Scale
from deploykit.stats.bootstrap import estimate_mean
from deploykit.stats.estimate import Estimate
from deploykit.stats.latency_percentiles import estimate_percentile, required_samples
from deploykit.stats.stability import detect_drift, detect_modes
from deploykit.util.array_types import Float64Array
from deploykit.util.types import Precision

FORMAT = 2
PERCENTILES = (50, 90, 99)

Scope = Literal["end-to-end", "device", "host"]
# Limits on values in files: a record beyond them is not a measurement and would break its readers.
CoreCount = Annotated[int, Meta(ge=1, le=1_000_000)]
BatchSize = Annotated[int, Meta(ge=1, le=1_000_000)]
MacCount = Annotated[int, Meta(ge=0, le=10**18)]
PositiveFloat = Annotated[float, Meta(gt=0, le=1e9)]
Phi = Annotated[float, Meta(ge=-100, le=100)]
SidePx = Annotated[int, Meta(ge=1, le=100_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How a measurement was made. Figures from different methods cannot be compared.

    Attributes:
        scope: `end-to-end`: from images to outputs, both in host memory. `device`: the GPU's time, with
            images and outputs in its memory. `host`: the time that the host thread takes to enqueue that.
        batch: Images per call; in `server` the maximum.
        in_flight: Concurrent calls.
        cuda_graph: Whether the kernels of each call were launched as one CUDA graph; None on a CPU.
        threads: CPU threads; None on a GPU.
        max_latency_ms: The latency bound of `server`; None in other scenarios.
    """

    scenario: Scenario
    batch: BatchSize
    scope: Scope = "end-to-end"
    in_flight: CoreCount = 1
    cuda_graph: bool | None = None
    threads: CoreCount | None = None
    max_latency_ms: PositiveFloat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEngine:
    """The engine that was measured.

    Attributes:
        name: Name of its file.
        onnx_sha256: Digest of the FP32 model it comes from; None if unknown.
        phi, rule, depth, width: How the network was scaled; None if unknown.
        macs: Multiply-accumulates per image, according to the audit; 0 if the audit found none.
        compiler: The compiler with its version.
        classes: Number of outputs per image; None if it was not recorded.
    """

    name: str
    sha256: str
    onnx_sha256: str | None
    family: str
    phi: Phi | None
    rule: Rule | None
    depth: PositiveFloat | None
    width: PositiveFloat | None
    side_px: SidePx
    precision: Precision
    macs: MacCount
    compiler: str
    target: str
    classes: Annotated[int, Meta(ge=1)] | None = None

    @property
    def scale(self) -> Scale | None:
        """The scale relative to the baseline network; None if unknown."""
        if self.depth is None or self.width is None:
            return None
        return Scale(depth=self.depth, width=self.width, side_px=self.side_px)

    @classmethod
    def from_manifest(cls, path: Path, manifest: EngineManifest) -> "MeasuredEngine":
        """Return the record of the engine at this path."""
        model, target = manifest.model, manifest.target
        return cls(
            name=path.name,
            sha256=manifest.engine_sha256,
            onnx_sha256=model.onnx_sha256,
            family=model.family,
            phi=model.phi,
            rule=model.rule,
            depth=model.depth,
            width=model.width,
            side_px=manifest.side_px,
            precision=manifest.precision,
            macs=sum(layer.macs for layer in manifest.audit.profiles[0].layers),
            compiler=f"{target.compiler_title} {manifest.compiler_version}",
            target=target.title,
            classes=manifest.num_classes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A measurement of latency or throughput.

    Attributes:
        machine, before, after: See bench.machine.
        runtime: What ran the engine, with its version.
        started: UTC, ISO 8601.
        latency_ms, seconds, warm_up_ms: See bench.scenarios.Samples.
        trials: The rates that `server` tried; empty in other scenarios.
    """

    engine: MeasuredEngine
    method: Method
    machine: Machine
    before: MachineState
    after: MachineState
    runtime: str
    started: str
    latency_ms: Annotated[tuple[PositiveFloat, ...], Meta(min_length=1)]
    warm_up_ms: tuple[float, ...]
    seconds: PositiveFloat
    trials: tuple[Trial, ...] = ()
    deploykit_version: str = __version__
    kind: Literal["latency"] = "latency"
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        if self.method.scenario == "server" and not any(each.holds for each in self.trials):
            raise ValueError("none of its trials met the latency bound")

    @property
    def name(self) -> str:
        """Name of its file, without the time: engine, scenario and batch."""
        return f"{self.engine.name}.{self.method.scenario}.b{self.method.batch}"

    @property
    def samples(self) -> Float64Array:
        return np.array(self.latency_ms)

    def percentile_ms(self, percent: float) -> Estimate:
        """Return the latency that percent of the calls (in `server`: of the images) do not exceed."""
        return estimate_percentile(self.samples, percent)

    @property
    def images_per_s(self) -> Estimate:
        """Throughput; in `server` the highest rate that meets the latency bound, enclosed by the trials.

        For the scopes `device` and `host`: the throughput that this part alone would allow.
        """
        if self.method.scenario == "server":
            rates = [each.rate_per_s for each in self.trials if each.holds]
            failing = [each.rate_per_s for each in self.trials if not each.holds]
            return Estimate(value=max(rates), low=max(rates), high=min(failing, default=None))
        images, mean = 1000 * self.method.batch, estimate_mean(self.samples)
        low, high = (None if end is None else images / end for end in (mean.high, mean.low))
        return Estimate(value=images / mean.value, low=low, high=high)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What to know before relying on the figures, one sentence each."""
        count = len(self.latency_ms)
        if self.method.scenario == "offline":  # has no percentiles
            return self.run_caveats
        return self.run_caveats + tuple(
            f"p{percent} from {count} samples is rough; at least {least:,} samples are needed."
            for percent in PERCENTILES
            if count < (least := required_samples(percent))
        )

    @property
    def run_caveats(self) -> tuple[str, ...]:
        """The caveats that concern all figures: disturbances, drift and several modes."""
        sentences = list(describe_disturbances(self.machine, self.before, self.after))
        if self.method.scenario == "server":  # whose latencies depend on the arrivals
            sentences += self._describe_search()
        else:
            sentences += _describe_distribution(self.samples)
        return tuple(sentences)

    def _describe_search(self) -> list[str]:
        holds, fails = self.images_per_s.value, self.images_per_s.high
        if fails is None or fails <= holds * SEARCH_TOLERANCE * (1 + 1e-9):
            return []
        return [
            f"The search ran out of time: {holds:.4g} images/s meet the bound, {fails:.4g} do not; rates in "
            "between were not tried."
        ]


def comparison_key(record: Record) -> dict[str, object]:
    """Return the fields of the method and the machine that two comparable records share."""
    method_fields = {field.name: getattr(record.method, field.name) for field in fields(Method)}
    return {**method_fields, "machine": record.machine.name, "cores": record.machine.cores}


def utc_timestamp() -> str:
    """Return the current time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def resolve_cpu_threads(threads: int | None) -> int:
    """Return the number of CPU threads that an engine runs on; default one per core."""
    return threads or len(os.sched_getaffinity(0))


def describe_execution(*, threads: int | None, cuda_graph: bool | None) -> str:
    """Describe how an engine ran, in words; one of the arguments is None."""
    if threads is not None:
        return f"{threads} thread{'s' if threads > 1 else ''}"
    return "CUDA graphs" if cuda_graph else "no CUDA graphs"


def _describe_distribution(samples: Float64Array) -> list[str]:
    sentences = []
    if (change := detect_drift(samples)) is not None:
        way = "rose" if change > 0 else "fell"
        sentences.append(f"The run drifts: latency {way} by {100 * abs(change):.0f} % during the run.")
    if (two := detect_modes(samples)) is not None:
        sentences.append(
            f"The latencies have two modes: {two.low:.3g} ms, and {two.high:.3g} ms in "
            f"{100 * two.share:.0f} % "
            "of the calls."
        )
    return sentences
