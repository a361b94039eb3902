"""Which layers take the time, and how near are they to what the machine could do?"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from deploykit.bench.layer_profile import LayerProfile
from deploykit.bench.layers import LayerTime, total
from deploykit.report.gather import Gathered, Setup, network_name, setup_of
from deploykit.report.section import COLOURS, Column, Section, Table, Trace, hover, plain

# What computes something is told by timm's names of EfficientNet's layers, the rest by ONNX's operators.
_BY_NAME = (
    (re.compile(r"\.conv_dw"), "depthwise"),
    (re.compile(r"\.conv_pwl?"), "pointwise"),
    (re.compile(r"^blocks\.\d+\.\d+\.conv(_exp)?\b"), "fused"),
    (re.compile(r"\.se\."), "squeeze-excite"),
    (re.compile(r"^(conv_stem|conv_head|global_pool|classifier)"), "stem and head"),
)
_BY_OPERATOR = (
    (re.compile(r"Reorder|Transpose|Reshape|Flatten|QuantizeLinear|Cast|[Rr]eformat"), "layout and types"),
    (re.compile(r"QuickGelu|Silu|Swish|Sigmoid|Relu|Clip"), "activations alone"),
)
PRODUCTS, REST = "other products", "rest"
ROLES = (*(name for _, name in _BY_NAME), PRODUCTS, *(name for _, name in _BY_OPERATOR), REST)


def sections(gathered: Gathered) -> tuple[Section, ...]:
    """Time by role of the layers, for each setup."""
    profiles = sorted(gathered.profiles, key=setup_of)
    return tuple(
        _section(setup, gathered.setups, list(own)) for setup, own in groupby(profiles, key=setup_of)
    )


def role(layer: LayerTime) -> str:
    """What the layer is for, one of ROLES."""
    for pattern, name in _BY_OPERATOR:
        if pattern.search(layer.kind):
            return name
    for pattern, name in _BY_NAME:
        if layer.node is not None and pattern.search(layer.node):
            return name
    return PRODUCTS if layer.macs else REST


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """Of the layers of one role in one network; what is not known of one of them is None."""

    network: str
    role: str
    ms: float
    network_ms: float
    macs: int
    size_bytes: int | None
    bound_ms: float | None

    @property
    def share(self) -> float:
        return self.ms / self.network_ms

    @property
    def times_bound(self) -> str:
        """`2.0 times its bound`, or nothing."""
        return f"{self.ms / self.bound_ms:.1f} times its bound" if self.bound_ms else ""


def _section(setup: Setup, setups: Sequence[Setup], profiles: Sequence[LayerProfile]) -> Section:
    title = setup.title(setups)
    sums = [each for profile in profiles for each in _sums(profile)]
    roles = [name for name in ROLES if any(each.role == name for each in sums)]
    return Section(
        name=f"layers-{re.sub(r'[^a-z0-9]+', '-', title.lower())}",
        title=f"Which layers take the time, and how near are they to their roofline? {title}",
        findings=_findings(sums, [_name(profile) for profile in profiles]),
        traces=tuple(
            _trace([each for each in sums if each.role == name], COLOURS[ROLES.index(name)]) for name in roles
        ),
        layout={
            "barmode": "stack",
            "xaxis": {
                "title": {"text": "plain: time; hatched: bound"},
                "type": "multicategory",
            },
            "yaxis": {"title": {"text": "of the network's time, %"}},
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="layers"),
                Column(title="time, ms", evidence="measured"),
                Column(title="of all", evidence="measured"),
                Column(title="MACs"),
                Column(title="moved, MB"),
                Column(title="bound, ms", evidence="measured"),
                Column(title="time / bound", evidence="measured"),
            ),
            rows=tuple(_row(each) for each in sums),
        ),
        notes=(
            "The bound is the longer of what the machine needs to multiply that much and to move that many "
            "bytes, at the best it was measured to do. Times are of a profiled run, which takes longer.",
        ),
    )


def _name(profile: LayerProfile) -> str:
    batch = "" if profile.batch == 1 else f", batch {profile.batch}"
    return f"{network_name(profile.engine)}{batch}"


def _sums(profile: LayerProfile) -> list[_Sum]:
    total_ms = sum(layer.ms for layer in profile.layers)
    found = []
    for name in ROLES:
        layers = [layer for layer in profile.layers if role(layer) == name]
        if layers:
            ms = sum(layer.ms for layer in layers)
            found.append(
                _Sum(
                    network=_name(profile),
                    role=name,
                    ms=ms,
                    network_ms=total_ms,
                    macs=sum(layer.macs for layer in layers),
                    size_bytes=total([layer.size_bytes for layer in layers]),
                    bound_ms=total([layer.bound_ms for layer in layers]),
                )
            )
    return found


def _trace(sums: Sequence[_Sum], colour: str) -> Trace:
    """Two bars a network: the time, and the bound beside it, as far as it is known."""
    bars = [
        (each, kind, ms) for each in sums for kind, ms in (("time", each.ms), ("bound", each.bound_ms or 0.0))
    ]
    return {
        "type": "bar",
        "name": plain(sums[0].role),
        "x": [[plain(each.network) for each, _, _ in bars], [kind for _, kind, _ in bars]],
        "y": [100 * ms / each.network_ms for each, _, ms in bars],
        "marker": {
            "color": colour,
            "pattern": {"shape": ["" if kind == "time" else "/" for _, kind, _ in bars], "solidity": 0.5},
        },
        "hoverinfo": "text",
        "hovertext": [
            hover(
                f"{each.network}, {each.role}",
                f"{each.ms:.4g} ms, {100 * each.share:.1f} % of all, measured",
                *([f"bound {each.bound_ms:.4g} ms: {each.times_bound}"] if each.bound_ms else []),
            )
            for each, _, _ in bars
        ],
    }


def _findings(sums: Sequence[_Sum], networks: Sequence[str]) -> tuple[str, ...]:
    found = []
    for network in dict.fromkeys((networks[0], networks[-1])):
        own = sorted((each for each in sums if each.network == network), key=lambda each: -each.share)
        macs = sum(each.macs for each in own)
        told = [
            f"{each.role} {100 * each.share:.0f} % of the time"
            + (f" for {100 * each.macs / macs:.0f} % of the MACs" if each.macs else "")
            + (f", {each.times_bound}" if each.times_bound else "")
            for each in own[:3]
        ]
        found.append(f"{network}: {'; '.join(told)}.")
    return tuple(found)


def _row(each: _Sum) -> tuple[str, ...]:
    return (
        each.network,
        each.role,
        f"{each.ms:.3f}",
        f"{100 * each.share:.1f} %",
        f"{each.macs / 1e6:.1f} M" if each.macs else "",
        f"{each.size_bytes / 1e6:.2f}" if each.size_bytes is not None else "",
        f"{each.bound_ms:.3f}" if each.bound_ms is not None else "",
        each.times_bound.removesuffix(" times its bound"),
    )
