"""Which layers take the time, and how close are they to the roofline?"""

import re
from collections.abc import Sequence
from itertools import groupby

from deploykit.bench.layers.layer_profile import LayerProfile, explain_beaten_bounds
from deploykit.reporting.report.caveats import format_caveats, format_interval
from deploykit.reporting.report.engine_facts import network_name
from deploykit.reporting.report.layer_roles import LAYER_ROLES, RoleTime, sum_roles
from deploykit.reporting.report.report_data import ReportData
from deploykit.reporting.report.section import Column, Section, Table, Trace
from deploykit.reporting.report.setup import Setup
from deploykit.reporting.report.traces import PALE, bars

_MAX_ROLES = 3  # that a finding names
_MAX_ANCHOR = 40  # characters of a title in an anchor


def sections(data: ReportData) -> tuple[Section, ...]:
    """Return the time by role of the layers, for each setup."""
    profiles = sorted(data.profiles, key=Setup.from_record)
    return tuple(
        _make_section(setup, data.setups, list(group), index)
        for index, (setup, group) in enumerate(groupby(profiles, key=Setup.from_record))
    )


def _make_section(
    setup: Setup, setups: Sequence[Setup], profiles: Sequence[LayerProfile], index: int
) -> Section:
    title = setup.title(setups)
    anchor = re.sub(r"[^a-z0-9]+", "-", title.lower())
    times = [each for profile in profiles for each in sum_roles(profile, _name(profile))]
    roles = [role for role in LAYER_ROLES if any(each.role == role for each in times)]
    return Section(
        name=f"layers-{anchor}" if len(anchor) <= _MAX_ANCHOR else f"layers-{anchor[:_MAX_ANCHOR]}-{index}",
        title=f"Which layers take the time, and how close are they to the roofline? {title}",
        findings=_find(times, profiles),
        traces=tuple(
            _make_trace([each for each in times if each.role == role], PALE[LAYER_ROLES.index(role)])
            for role in roles
        ),
        layout={
            "barmode": "stack",
            "xaxis": {
                "title": {"text": "plain: time; hatched: bound"},
                "type": "multicategory",
            },
            "yaxis": {"title": {"text": "share of the network's time, %"}},
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="layers"),
                Column(title="time, ms", evidence="measured"),
                Column(title="share of time, %", evidence="measured"),
                Column(title="MACs"),
                Column(title="moved, MB"),
                Column(title="bound, ms", evidence="measured"),
                Column(title="time / bound", evidence="measured"),
            ),
            rows=tuple(_make_row(each) for each in times),
        ),
        notes=(
            "The bound is the longer of two times at the best rates measured on this machine: the time for "
            "the multiply-accumulates, and the time to move the bytes. Layer times come from a profiled run, "
            "which takes longer. Intervals add up those of single layers, so that they are wider than "
            "necessary; older records have none.",
            *_describe_beaten(profiles),
        ),
    )


def _name(profile: LayerProfile) -> str:
    batch = "" if profile.batch == 1 else f", batch {profile.batch}"
    return f"{network_name(profile.engine)}{batch}"


def _make_trace(times: Sequence[RoleTime], colour: str) -> Trace:
    """Return two bars per network: the time, and next to it the bound as far as it is known."""
    drawn = [
        (each, kind, ms)
        for each in times
        for kind, ms in (("time", each.time.value), ("bound", each.bound_ms or 0.0))
    ]
    return bars(
        times[0].role,
        [[each.network for each, _, _ in drawn], [kind for _, kind, _ in drawn]],
        [100 * ms / each.network_ms for each, _, ms in drawn],
        colour=colour,
        hatched=[kind == "bound" for _, kind, _ in drawn],
        hover_lines=[
            (
                f"{each.network}, {each.role}",
                f"{each.time} ms, {each.percent.value:.1f} % of the total, measured",
                *([f"{each.times_bound} times the bound of {each.bound_ms:.4g} ms"] if each.bound_ms else []),
            )
            for each, _, _ in drawn
        ],
    )


def _find(times: Sequence[RoleTime], profiles: Sequence[LayerProfile]) -> tuple[str, ...]:
    """Say which roles take the most and the least time in the smallest and in the largest network."""
    findings = []
    by_name = {_name(profile): profile for profile in profiles}
    for network in dict.fromkeys((_name(profiles[0]), _name(profiles[-1]))):
        ordered = sorted(
            (each for each in times if each.network == network), key=lambda each: -each.percent.value
        )
        macs = sum(each.macs for each in ordered)
        clauses = [_describe(each, macs) for each in ordered[:_MAX_ROLES]]
        if len(ordered) > _MAX_ROLES:
            least = ordered[-1]
            percent = f"{least.percent.value:.1f} %{format_interval(least.percent)}"
            clauses.append(f"{least.role} takes the least, {percent}")
        findings.append(f"{network}: {'; '.join(clauses)}.{format_caveats([by_name[network]])}")
    return tuple(findings)


def _describe(each: RoleTime, macs: int) -> str:
    percent = each.percent
    work = f" for {100 * each.macs / macs:.0f} % of the MACs" if each.macs and macs else ""
    bound = f", {each.times_bound.removesuffix(' *')} times its bound" if each.times_bound else ""
    return f"{each.role} takes {percent.value:.0f} % of the time{format_interval(percent)}{work}{bound}"


def _describe_beaten(profiles: Sequence[LayerProfile]) -> tuple[str, ...]:
    """Return a note if layers beat their bound, with the reason why they can."""
    layers = [layer for profile in profiles for layer in profile.layers]
    count = sum(layer.beats_bound for layer in layers)
    if not count:
        return ()
    sentence = f"* marks times below the bound; {count} of {len(layers)} single layers are below theirs."
    return (f"{sentence} {explain_beaten_bounds(profiles[0])}",)


def _make_row(each: RoleTime) -> tuple[str, ...]:
    return (
        each.network,
        each.role,
        f"{each.time.value:.3f}{format_interval(each.time)}",
        f"{each.percent.value:.1f}{format_interval(each.percent)}",
        f"{each.macs / 1e6:.1f} M" if each.macs else "",
        f"{each.size_bytes / 1e6:.2f}" if each.size_bytes is not None else "",
        f"{each.bound_ms:.3f}" if each.bound_ms is not None else "",
        each.times_bound,
    )
