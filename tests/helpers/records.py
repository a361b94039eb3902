"""Build records as if they had been measured."""

from dataclasses import replace

import numpy as np

from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.layers.layer_time import LayerTime
from deploykit.bench.machine import Machine, MachineState
from deploykit.bench.record import MeasuredEngine, Method, Record
from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.scaling import Scale, scale_for
from deploykit.stats.proportion import Proportion

# arXiv:1905.11946, Table 7: 79.0, 78.9 and 79.1 %.
STRETCHED = (
    Scale(depth=4.0, width=1.0, side_px=224),
    Scale(depth=1.0, width=2.0, side_px=224),
    Scale(depth=1.0, width=1.0, side_px=448),
)
MACHINE = Machine(kind="cpu", name="Abacus(R) 9000 CPU @ 1.00GHz", cores=2, system="Linux 6, Python 3.11")
QUIET = MachineState(moment_s=0, cpu_mhz=None, busy_s=0, own_s=0, load=0)
STARTED = "2026-01-02T03:04:05.678+00:00"


def engine(
    *, phi: float | None = 0.0, scale: Scale | None = None, precision="fp32", **changes
) -> MeasuredEngine:
    """Return the member at phi, or B0 at a scale."""
    scale = scale or scale_for(phi or 0.0)
    phi = None if scale != scale_for(phi or 0.0) else phi
    name = f"phi{phi:g}" if phi is not None else f"d{scale.depth:g}w{scale.width:g}s{scale.side_px}"
    made = MeasuredEngine(
        name=f"{name}.{precision}.onnx",
        sha256=f"engine {name} {precision}",
        onnx_sha256=f"model {name}",
        family="efficientnet",
        phi=phi,
        rule=None if phi is None else "published",
        depth=scale.depth,
        width=scale.width,
        side_px=scale.side_px,
        precision=precision,
        macs=efficientnet(scale).macs,
        compiler="ONNX Runtime 1.31",
        target="the CPU",
    )
    return replace(made, **changes)


def latency(of: MeasuredEngine, median_ms: float, *, scenario="single-stream", batch=1, **changes) -> Record:
    """Return a latency record whose median is exactly median_ms."""
    samples = median_ms * np.exp(0.02 * np.linspace(-2, 2, 201) ** 3)
    np.random.default_rng(0).shuffle(samples)
    record = Record(
        engine=of,
        method=Method(scenario=scenario, batch=batch, threads=2),
        machine=MACHINE,
        before=QUIET,
        after=QUIET,
        runtime="ONNX Runtime 1.31",
        started=STARTED,
        latency_ms=tuple(map(float, samples)),
        warm_up_ms=(1.0,) * 10,
        seconds=float(samples.sum()) / 1000,
    )
    return replace(record, **changes)


def layer(
    node: str | None, kind: str, ms: float, *, macs: int = 0, bound_ms: float | None = 0.5
) -> LayerTime:
    return LayerTime(
        name=node or kind,
        kind=kind,
        block="blocks.0.0",
        node=node,
        precision="fp32" if macs else None,
        ms=ms,
        macs=macs,
        size_bytes=1000,
        bound_ms=bound_ms,
    )


def profile(of: MeasuredEngine, layers: list[LayerTime], **changes) -> LayerProfile:
    made = LayerProfile(
        engine=of,
        machine=MACHINE,
        batch=1,
        threads=2,
        cuda_graph=None,
        started=STARTED,
        layers=tuple(layers),
    )
    return replace(made, **changes)


def accuracy(of: MeasuredEngine, top1: float, **changes) -> AccuracyRecord:
    made = AccuracyRecord(
        model=of.name,
        sha256=of.sha256,
        onnx_sha256=of.onnx_sha256,
        precision=of.precision,
        data="photos",
        images=500,
        data_sha256="0" * 64,
        top1=Proportion(value=top1, low=top1 - 0.01, high=top1 + 0.01),
        ran_by="ONNX Runtime",
        started=STARTED,
    )
    return replace(made, **changes)
