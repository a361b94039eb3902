"""Which layers take the time, and how near are they to what the machine could do?"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from deploykit.bench.layers.layer_profile import LayerProfile, explain_beaten_bounds
from deploykit.bench.layers.layer_time import LayerTime, sum_if_all_known
from deploykit.reporting.report.caveats import cautions, in_brackets
from deploykit.reporting.report.gather import Gathered, Setup, network_name, setup_of
from deploykit.reporting.report.section import Column, Section, Table, Trace
from deploykit.reporting.report.traces import PALE, bars
from deploykit.stats.estimate import Estimate

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
_DEAREST = 3  # roles that a sentence names
_LONGEST = 40  # characters of a title in an address
ROLES = (*(name for _, name in _BY_NAME), PRODUCTS, *(name for _, name in _BY_OPERATOR), REST)


def sections(gathered: Gathered) -> tuple[Section, ...]:
    """Time by role of the layers, for each setup."""
    profiles = sorted(gathered.profiles, key=setup_of)
    return tuple(
        _section(setup, gathered.setups, list(own), index)
        for index, (setup, own) in enumerate(groupby(profiles, key=setup_of))
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
    """Of the layers of one role in one network; what is not known of one of them is None.

    Attributes: time, rest: of these layers, and of all others of the network, ms.
    """

    network: str
    role: str
    time: Estimate
    rest: Estimate
    macs: int
    size_bytes: int | None
    bound_ms: float | None

    @property
    def network_ms(self) -> float:
        return self.time.value + self.rest.value

    @property
    def percent(self) -> Estimate:
        """Of the network's time: its ends are those of the time, with the others' at the other end."""

        def share(own: float | None, others: float | None) -> float | None:
            return None if own is None or others is None else 100 * own / (own + others)

        return Estimate(
            value=100 * self.time.value / self.network_ms,
            low=share(self.time.low, self.rest.high),
            high=share(self.time.high, self.rest.low),
        )

    @property
    def times_bound(self) -> str:
        """`2.0`, marked where the bound is beaten; nothing where it is not known."""
        if not self.bound_ms:
            return ""
        return f"{self.time.value / self.bound_ms:.1f}{' *' if self.time.value < self.bound_ms else ''}"


def _section(setup: Setup, setups: Sequence[Setup], profiles: Sequence[LayerProfile], index: int) -> Section:
    title = setup.title(setups)
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower())
    sums = [each for profile in profiles for each in _sums(profile)]
    roles = [name for name in ROLES if any(each.role == name for each in sums)]
    return Section(
        name=f"layers-{slug}" if len(slug) <= _LONGEST else f"layers-{slug[:_LONGEST]}-{index}",
        title=f"Which layers take the time, and how near are they to their roofline? {title}",
        findings=_findings(sums, profiles),
        traces=tuple(
            _trace([each for each in sums if each.role == name], PALE[ROLES.index(name)]) for name in roles
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
                Column(title="of all, %", evidence="measured"),
                Column(title="MACs"),
                Column(title="moved, MB"),
                Column(title="bound, ms", evidence="measured"),
                Column(title="time / bound", evidence="measured"),
            ),
            rows=tuple(_row(each) for each in sums),
        ),
        notes=(
            "The bound is the longer of what the machine needs to multiply that much and to move that many "
            "bytes, at the best it was measured to do. Times are of a profiled run, which takes longer. "
            "Intervals add up those of single layers, and are wider than need be; older records have none.",
            *_beaten(profiles),
        ),
    )


def _name(profile: LayerProfile) -> str:
    batch = "" if profile.batch == 1 else f", batch {profile.batch}"
    return f"{network_name(profile.engine)}{batch}"


def _sums(profile: LayerProfile) -> list[_Sum]:
    found = []
    for name in ROLES:
        layers = [layer for layer in profile.layers if role(layer) == name]
        if layers:
            found.append(
                _Sum(
                    network=_name(profile),
                    role=name,
                    time=_time(layers),
                    rest=_time([layer for layer in profile.layers if role(layer) != name]),
                    macs=sum(layer.macs for layer in layers),
                    size_bytes=sum_if_all_known([layer.size_bytes for layer in layers]),
                    bound_ms=sum_if_all_known([layer.bound_ms for layer in layers]),
                )
            )
    return found


def _time(layers: Sequence[LayerTime]) -> Estimate:
    return Estimate(
        value=sum(layer.ms for layer in layers),
        low=sum_if_all_known([layer.low_ms for layer in layers]),
        high=sum_if_all_known([layer.high_ms for layer in layers]),
    )


def _trace(sums: Sequence[_Sum], colour: str) -> Trace:
    """Two bars a network: the time, and the bound beside it, as far as it is known."""
    drawn = [
        (each, kind, ms)
        for each in sums
        for kind, ms in (("time", each.time.value), ("bound", each.bound_ms or 0.0))
    ]
    return bars(
        sums[0].role,
        [[each.network for each, _, _ in drawn], [kind for _, kind, _ in drawn]],
        [100 * ms / each.network_ms for each, _, ms in drawn],
        colour=colour,
        hatched=[kind == "bound" for _, kind, _ in drawn],
        told=[
            (
                f"{each.network}, {each.role}",
                f"{each.time} ms, {each.percent.value:.1f} % of all, measured",
                *([f"bound {each.bound_ms:.4g} ms: {each.times_bound} times that"] if each.bound_ms else []),
            )
            for each, _, _ in drawn
        ],
    )


def _findings(sums: Sequence[_Sum], profiles: Sequence[LayerProfile]) -> tuple[str, ...]:
    """What takes most and least of the time in the smallest and the largest network."""
    found = []
    by_name = {_name(profile): profile for profile in profiles}
    for network in dict.fromkeys((_name(profiles[0]), _name(profiles[-1]))):
        own = sorted((each for each in sums if each.network == network), key=lambda each: -each.percent.value)
        macs = sum(each.macs for each in own)
        told = [_words(each, macs) for each in own[:_DEAREST]]
        if len(own) > _DEAREST:
            least = own[-1]
            told.append(f"least of all {least.role}, {least.percent.value:.1f} %{in_brackets(least.percent)}")
        found.append(f"{network}: {'; '.join(told)}.{cautions([by_name[network]])}")
    return tuple(found)


def _words(each: _Sum, macs: int) -> str:
    percent = each.percent
    work = f" for {100 * each.macs / macs:.0f} % of the MACs" if each.macs and macs else ""
    bound = f", {each.times_bound.removesuffix(' *')} times its bound" if each.times_bound else ""
    return f"{each.role} {percent.value:.0f} % of the time{in_brackets(percent)}{work}{bound}"


def _beaten(profiles: Sequence[LayerProfile]) -> tuple[str, ...]:
    """How many layers beat their bound, and why they can."""
    layers = [layer for profile in profiles for layer in profile.layers]
    count = sum(layer.beats_bound for layer in layers)
    if not count:
        return ()
    said = f"* marks what takes less than its bound; of single layers {count} of {len(layers)} do."
    return (f"{said} {explain_beaten_bounds(profiles[0])}",)


def _row(each: _Sum) -> tuple[str, ...]:
    return (
        each.network,
        each.role,
        f"{each.time.value:.3f}{in_brackets(each.time)}",
        f"{each.percent.value:.1f}{in_brackets(each.percent)}",
        f"{each.macs / 1e6:.1f} M" if each.macs else "",
        f"{each.size_bytes / 1e6:.2f}" if each.size_bytes is not None else "",
        f"{each.bound_ms:.3f}" if each.bound_ms is not None else "",
        each.times_bound,
    )
