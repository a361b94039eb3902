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
from deploykit.stats.estimate import Estimate
from deploykit.stats.latency_percentiles import (
    detect_drift,
    detect_modes,
    estimate_mean,
    estimate_percentile,
    required_samples,
)
from deploykit.util.array_types import Float64Array
from deploykit.util.types import Precision

FORMAT = 2
PERCENTILES = (50, 90, 99)

Scope = Literal["end-to-end", "device", "host"]
# What a file may hold: a record that claims more is no measurement, and would break what is made of it.
CoreCount = Annotated[int, Meta(ge=1, le=1_000_000)]
BatchSize = Annotated[int, Meta(ge=1, le=1_000_000)]
MacCount = Annotated[int, Meta(ge=0, le=10**18)]
PositiveFloat = Annotated[float, Meta(gt=0, le=1e9)]
_Phi = Annotated[float, Meta(ge=-100, le=100)]
_Side = Annotated[int, Meta(ge=1, le=100_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How it was measured. Figures of unlike methods say nothing about each other.

    Attributes:
        scope: `end-to-end` from images in the host's memory to answers there; `device`, what the GPU takes
            with both in its own; `host`, what the host's thread takes to enqueue that.
        batch: images a call; in `server` the most that are run at once.
        in_flight: calls at the same time.
        cuda_graph: whether each call's kernels were launched as one; None on a CPU.
        threads: of the CPU that an engine for it ran on; None on a GPU.
        max_latency_ms: the bound that `server` holds; None in other scenarios.
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
        name: of its file.
        onnx_sha256: digest of the FP32 model it comes from; None where that is not known.
        phi, rule, depth, width: how it was scaled; None where that is not known.
        macs: multiply-accumulates of an image, of what the audit found; 0 where it found nothing.
        compiler: with its version.
        classes: how many outputs an image has; None where that was not recorded.
    """

    name: str
    sha256: str
    onnx_sha256: str | None
    family: str
    phi: _Phi | None
    rule: Rule | None
    depth: PositiveFloat | None
    width: PositiveFloat | None
    side_px: _Side
    precision: Precision
    macs: MacCount
    compiler: str
    target: str
    classes: Annotated[int, Meta(ge=1)] | None = None

    @property
    def scale(self) -> Scale | None:
        """How far its baseline is stretched; None where that is not known."""
        if self.depth is None or self.width is None:
            return None
        return Scale(depth=self.depth, width=self.width, side_px=self.side_px)

    @classmethod
    def of(cls, path: Path, manifest: EngineManifest) -> "MeasuredEngine":
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
            classes=manifest.classes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was measured.

    Attributes:
        machine, before, after: see bench.machine.
        runtime: what ran the engine, with its version.
        started: UTC, ISO 8601.
        latency_ms, seconds, warm_up_ms: see bench.scenarios.Samples.
        trials: the rates that `server` tried; () in other scenarios.
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
            raise ValueError("no rate that it tried holds")

    @property
    def name(self) -> str:
        """Of its file, before the moment: engine, scenario and batch."""
        return f"{self.engine.name}.{self.method.scenario}.b{self.method.batch}"

    @property
    def samples(self) -> Float64Array:
        return np.array(self.latency_ms)

    def percentile_ms(self, percent: float) -> Estimate:
        """The latency that percent of the calls (of the images, in `server`) stay at or under."""
        return estimate_percentile(self.samples, percent)

    @property
    def images_per_s(self) -> Estimate:
        """Throughput; in `server` the rate that holds the bound, which trials enclose.

        Of `device` and `host` what that part alone would allow.
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
        """What to know before relying on it, a sentence each."""
        count = len(self.latency_ms)
        if self.method.scenario == "offline":  # which is about no percentile
            return self.run_caveats
        return self.run_caveats + tuple(
            f"p{percent} of {count} samples is rough: {least:,} are wanted."
            for percent in PERCENTILES
            if count < (least := required_samples(percent))
        )

    @property
    def run_caveats(self) -> tuple[str, ...]:
        """Those of the remarks that concern all its figures: what disturbed it, whether it is of a piece."""
        found = list(describe_disturbances(self.machine, self.before, self.after))
        if self.method.scenario == "server":  # whose samples depend on what arrives
            found += self._search()
        else:
            found += _shape(self.samples)
        return tuple(found)

    def _search(self) -> list[str]:
        holds, fails = self.images_per_s.value, self.images_per_s.high
        if fails is None or fails <= holds * SEARCH_TOLERANCE * (1 + 1e-9):
            return []
        return [
            f"The search ran out of time: {holds:.4g} images/s hold, {fails:.4g} don't, between is not known."
        ]


def comparison_key(record: Record) -> dict[str, object]:
    """What has to be alike in two records for their figures to be compared: method and machine."""
    alike = {field.name: getattr(record.method, field.name) for field in fields(Method)}
    return {**alike, "machine": record.machine.name, "cores": record.machine.cores}


def utc_timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def resolve_cpu_threads(threads: int | None) -> int:
    """How many an engine for the CPU runs on where so many were asked for."""
    return threads or len(os.sched_getaffinity(0))


def describe_execution(*, threads: int | None, cuda_graph: bool | None) -> str:
    """In words: one of the two is None."""
    if threads is not None:
        return f"{threads} thread{'s' if threads > 1 else ''}"
    return "CUDA graphs" if cuda_graph else "no CUDA graphs"


def _shape(samples: Float64Array) -> list[str]:
    found = []
    if (change := detect_drift(samples)) is not None:
        way = "rose" if change > 0 else "fell"
        found.append(f"The run drifts: latency {way} by {100 * abs(change):.0f} % over it.")
    if (two := detect_modes(samples)) is not None:
        found.append(
            f"The run has two modes: {two.low:.3g} ms, and {two.high:.3g} ms in {100 * two.share:.0f} % "
            "of the calls."
        )
    return found
