"""Layer times, mapped to the network's blocks, with their work, bytes and roofline bound."""

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
    """The time of a layer, or the sum of several.

    Attributes:
        name: The compiler's name, or what several layers have in common.
        kind: Kind of kernel, in the compiler's words.
        block: Block of the network; NO_BLOCK if none of its nodes is in a layer of the network.
        node: The first graph node that it computes; None for several layers, or if it computes none.
        ms: Median over the runs.
        low_ms, high_ms: 95 % interval. For several layers the sums of the ends, which is wider than
            necessary. None if open or not recorded.
        macs: Multiply-accumulates of the whole batch.
        size_bytes: Bytes read and written, including weights; None if unknown.
        bound_ms: The shortest possible time here, see bench.layers.roofline; None if unknown.
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
        """Whether it is faster than its bound, so that the bound does not apply."""
        return self.bound_ms is not None and self.ms < self.bound_ms


def make_layer_time(
    name: str,
    *,
    kind: str,
    node: str | None,
    compiled: CompiledLayer | None,
    batch: int,
    runs_ms: Sequence[float],
    size_bytes: int | None,
    roofline: Roofline | None,
) -> LayerTime:
    """Return the time of a layer with its work according to the audit.

    Args:
        node: The graph node that it computes; None if none.
        runs_ms: Its time in each run.
        roofline: None if unknown for this machine.
    """
    macs = compiled.macs * batch if compiled else 0
    precision = compiled.precision if compiled else None
    interval = estimate_percentile(np.array(runs_ms), 50)
    return LayerTime(
        name=name,
        kind=kind,
        block=_block_of_node(node) if node else NO_BLOCK,
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
    """Sum layers over the blocks of the network, in its order."""
    return _sum_by(layers, lambda layer: layer.block)


def sum_by_kind(layers: Iterable[LayerTime]) -> list[LayerTime]:
    """Sum layers over the kinds of kernels, the slowest first."""
    return sorted(_sum_by(layers, lambda layer: layer.kind), key=lambda each: -each.ms)


def _block_of_node(node: str) -> str:
    """Return `blocks.2.1` for `blocks.2.1.conv_pw`, `conv_stem` for `conv_stem.silu`."""
    match = _BLOCK.match(node)
    return match[1] if match else NO_BLOCK


def _sum_by(layers: Iterable[LayerTime], key: Callable[[LayerTime], str]) -> list[LayerTime]:
    groups: dict[str, list[LayerTime]] = defaultdict(list)
    for layer in layers:
        groups[key(layer)].append(layer)
    return [
        LayerTime(
            name=name,
            kind=_common_value({layer.kind for layer in group}),
            block=_common_value({layer.block for layer in group}),
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
    """Return the sum, or None if a value is unknown: the sum of the others would look complete."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _common_value(names: set[str]) -> str:
    return names.pop() if len(names) == 1 else ""
