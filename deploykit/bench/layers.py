"""Time by layer, mapped back to the network's blocks, beside work, bytes and the roofline's bound."""

import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from deploykit.bench.images import random_images
from deploykit.bench.record import cpu_threads
from deploykit.bench.roofline import Roofline, cpu_roofline
from deploykit.engine.audit import CompiledLayer
from deploykit.engine.manifest import Manifest, read_manifest
from deploykit.errors import DeployError
from deploykit.model_file import Precision
from deploykit.runtime.preflight import preflight
from deploykit.sessions import cpu_session

_WARM_UP, _RUNS = 10, 50
_KERNEL = "_kernel_time"
_BLOCK = re.compile(r"^(blocks\.\d+\.\d+|layers\.\d+\.\d+|[a-z0-9_]+)")
_SIZES = ("activation_size", "parameter_size", "output_size")
OUTSIDE = "(no block)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """A layer, or several that were added up.

    Attributes:
        name: the compiler's, or what they have in common.
        kind: of kernel, in the compiler's words.
        block: of the network; OUTSIDE for what none of its nodes went into.
        node: the first of the graph's that it computes, if it is one layer that computes any.
        ms: median over the runs.
        macs: multiply-accumulates of the whole batch.
        size_bytes: of what it reads and writes, weights among it.
        bound_ms: the least it could take here; see bench.roofline.
    """

    name: str
    kind: str
    block: str
    node: str | None
    precision: Precision | None
    ms: float
    macs: int
    size_bytes: int
    bound_ms: float


class _Event(msgspec.Struct):
    """What ONNX Runtime's profiler writes of a kernel, as of version 1.31."""

    cat: str
    name: str
    dur: float
    args: dict[str, Any] = {}


def profile_layers(
    engine: str | Path, *, batch: int | None = None, threads: int | None = None
) -> list[LayerTime]:
    """Times each layer of an engine for the CPU, by ONNX Runtime's profiler.

    Args:
        batch: images a call; default what the engine is tuned for.
        threads: CPU threads; default one a core.

    Raises:
        DeployError: the engine can't run here, doesn't take that batch, or is one for a GPU.
    """
    path = Path(engine)
    manifest = read_manifest(path)
    if not manifest.target.on_cpu:
        raise DeployError(
            f"Layers are timed on the CPU alone, and {path} is for {manifest.target.title}.",
            fix="give an engine of build-engine --gpu cpu",
        )
    preflight(path).require()
    size = batch if batch is not None else manifest.batches[0].opt
    manifest.profile_for((size, *manifest.input.shape), manifest.input.dtype)
    events = _profiled(path, manifest, size, threads)
    known = {layer.name: layer for layer in manifest.audit.layers}
    roofline = cpu_roofline(cpu_threads(threads))
    return [_layer(name, found, known.get(name), size, roofline) for name, found in events.items()]


def by_block(layers: Iterable[LayerTime]) -> list[LayerTime]:
    """Added up over the blocks of the network, in its order."""
    return _added(layers, lambda layer: layer.block)


def by_kind(layers: Iterable[LayerTime]) -> list[LayerTime]:
    """Added up over the kinds of kernels, the longest first."""
    return sorted(_added(layers, lambda layer: layer.kind), key=lambda each: -each.ms)


def _profiled(path: Path, manifest: Manifest, size: int, threads: int | None) -> dict[str, list[_Event]]:
    """The events of each kernel, of the runs after warm-up."""
    images = random_images((size, *manifest.input.shape), manifest.input.dtype)
    with tempfile.TemporaryDirectory() as folder:
        session = cpu_session(path, threads=threads, profile=Path(folder, "layers"))
        for _ in range(_WARM_UP + _RUNS):
            session.run(None, {manifest.input.name: images})
        events = msgspec.json.decode(Path(session.end_profiling()).read_bytes(), type=list[_Event])
    kernels: dict[str, list[_Event]] = defaultdict(list)
    for event in events:
        if event.cat == "Node" and event.name.endswith(_KERNEL):
            kernels[event.name.removesuffix(_KERNEL)].append(event)
    return {name: found[_WARM_UP:] for name, found in kernels.items()}


def _layer(
    name: str, events: Sequence[_Event], known: CompiledLayer | None, batch: int, roofline: Roofline
) -> LayerTime:
    facts = events[0].args
    macs = known.macs * batch if known else 0
    precision = known.precision if known else None
    size_bytes = sum(int(facts.get(part, 0)) for part in _SIZES)
    if macs:
        size_bytes += _packed_weights(facts, precision)
    node = known.nodes[0] if known and known.nodes else None
    return LayerTime(
        name=name,
        kind=str(facts.get("op_name", "")),
        block=_block(node or name),
        node=node,
        precision=precision,
        ms=statistics.median(event.dur for event in events) / 1000,
        macs=macs,
        size_bytes=size_bytes,
        bound_ms=roofline.bound_ms(macs=macs, size_bytes=size_bytes, precision=precision),
    )


def _packed_weights(facts: Mapping[str, Any], precision: Precision | None) -> int:
    """Bytes of a matrix product's weights, which are not among its inputs where they were packed before."""
    shapes = [next(iter(tensor.values())) for tensor in facts.get("input_type_shape", ())]
    if any(len(shape) > 1 for shape in shapes[1:]):
        return 0
    (answer,) = (next(iter(tensor.values())) for tensor in facts["output_type_shape"])
    return int(shapes[0][-1]) * int(answer[-1]) * (1 if precision == "int8" else 4)


def _block(node: str) -> str:
    """`blocks.2.1` of `blocks.2.1.conv_pw`, `conv_stem` of `conv_stem.silu`."""
    match = _BLOCK.match(node)
    return match[1] if match else OUTSIDE


def _added(layers: Iterable[LayerTime], key: Callable[[LayerTime], str]) -> list[LayerTime]:
    groups: dict[str, list[LayerTime]] = defaultdict(list)
    for layer in layers:
        groups[key(layer)].append(layer)
    return [
        LayerTime(
            name=name,
            kind=_common({layer.kind for layer in group}),
            block=_common({layer.block for layer in group}),
            node=None,
            precision=None,
            ms=sum(layer.ms for layer in group),
            macs=sum(layer.macs for layer in group),
            size_bytes=sum(layer.size_bytes for layer in group),
            bound_ms=sum(layer.bound_ms for layer in group),
        )
        for name, group in groups.items()
    ]


def _common(names: set[str]) -> str:
    return names.pop() if len(names) == 1 else ""
