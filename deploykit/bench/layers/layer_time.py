"""Time by layer, mapped back to the network's blocks, beside work, bytes and the roofline's bound."""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np
from msgspec import Meta

from deploykit.bench.layers.roofline import Roofline
from deploykit.engine.audit.audit import CompiledLayer
from deploykit.stats.latency_percentiles import estimate_percentile
from deploykit.util.types import Precision

T = TypeVar("T", int, float)

WARM_UP_RUNS, MEASURED_RUNS = 10, 50
_BLOCK = re.compile(r"^(blocks\.\d+\.\d+|layers\.\d+\.\d+|[a-z0-9_]+)")
NO_BLOCK = "(no block)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """A layer, or several that were added up.

    Attributes:
        name: the compiler's, or what they have in common.
        kind: of kernel, in the compiler's words.
        block: of the network; OUTSIDE for what none of its nodes went into.
        node: the first of the graph's that it computes, if it is one layer that computes any.
        ms: median over the runs.
        low_ms, high_ms: its 95 % interval, of several the ends added up, which is wider than need be; None
            where it is open or was not recorded.
        macs: multiply-accumulates of the whole batch.
        size_bytes: of what it reads and writes, weights among it; None where that is not known.
        bound_ms: the least it could take here, see bench.layers.roofline; None where that is not known.
    """

    name: str
    kind: str
    block: str
    node: str | None
    precision: Precision | None
    ms: Annotated[float, Meta(ge=0, le=1e9)]
    macs: Annotated[int, Meta(ge=0, le=10**18)]
    size_bytes: Annotated[int, Meta(ge=0, le=10**18)] | None
    bound_ms: Annotated[float, Meta(ge=0, le=1e9)] | None
    low_ms: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    high_ms: Annotated[float, Meta(ge=0, le=1e9)] | None = None

    @property
    def beats_bound(self) -> bool:
        """Whether it is faster than its bound, which then is none."""
        return self.bound_ms is not None and self.ms < self.bound_ms


def make_layer_time(
    name: str,
    *,
    kind: str,
    node: str | None,
    known: CompiledLayer | None,
    batch: int,
    runs_ms: Sequence[float],
    size_bytes: int | None,
    roofline: Roofline | None,
) -> LayerTime:
    """A layer with its work, as the audit knows it.

    Args:
        node: of the graph's, that it computes; None for none.
        runs_ms: what it took in each run.
        roofline: None where nothing is known of this machine.
    """
    macs = known.macs * batch if known else 0
    precision = known.precision if known else None
    interval = estimate_percentile(np.array(runs_ms), 50)
    return LayerTime(
        name=name,
        kind=kind,
        block=_block(node) if node else NO_BLOCK,
        node=node,
        precision=precision,
        ms=statistics.median(runs_ms),
        macs=macs,
        size_bytes=size_bytes,
        bound_ms=None
        if roofline is None
        else roofline.bound_ms(macs=macs, size_bytes=size_bytes, precision=precision),
        low_ms=interval.low,
        high_ms=interval.high,
    )


def sum_by_block(layers: Iterable[LayerTime]) -> list[LayerTime]:
    """Added up over the blocks of the network, in its order."""
    return _added(layers, lambda layer: layer.block)


def sum_by_kind(layers: Iterable[LayerTime]) -> list[LayerTime]:
    """Added up over the kinds of kernels, the longest first."""
    return sorted(_added(layers, lambda layer: layer.kind), key=lambda each: -each.ms)


def _block(node: str) -> str:
    """`blocks.2.1` of `blocks.2.1.conv_pw`, `conv_stem` of `conv_stem.silu`."""
    match = _BLOCK.match(node)
    return match[1] if match else NO_BLOCK


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
            size_bytes=sum_if_all_known([layer.size_bytes for layer in group]),
            bound_ms=sum_if_all_known([layer.bound_ms for layer in group]),
            low_ms=sum_if_all_known([layer.low_ms for layer in group]),
            high_ms=sum_if_all_known([layer.high_ms for layer in group]),
        )
        for name, group in groups.items()
    ]


def sum_if_all_known(values: list[T | None]) -> T | None:
    """None where one is not known: the others' sum would look like all there is."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _common(names: set[str]) -> str:
    return names.pop() if len(names) == 1 else ""
