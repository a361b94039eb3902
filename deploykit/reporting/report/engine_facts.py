"""What a record's engine says about its network: its name, its scaling, its published accuracy."""

import re

from deploykit.bench.record import MeasuredEngine
from deploykit.networks.families.family import PublishedAccuracy
from deploykit.networks.families.registry import DEFAULT_FAMILY, FAMILIES
from deploykit.networks.scaling import Axis, format_phi, stretched_axis
from deploykit.util.errors import DeployError

_TRADEMARKS = re.compile(r"\((?:R|TM)\)|\bCPU\b|\s+@.*$|\bProcessor\b|\b\d+-Core\b")


def network_name(engine: MeasuredEngine) -> str:
    """Return `phi 3`, `depth 4`, or the file name if nothing else is known."""
    if engine.family == "unknown":
        return engine.name
    family = "" if engine.family == DEFAULT_FAMILY else f"{engine.family} "
    if engine.phi is not None:
        side = "" if _has_default_side(engine) else f", {engine.side_px} px"
        return f"{family}phi {format_phi(engine.phi)}{side}"
    axis = single_axis(engine)
    if axis == "side":
        return f"{family}side {engine.side_px} px"
    return f"{family}{axis} {getattr(engine, axis):g}" if axis is not None else engine.name


def short_machine(name: str) -> str:
    """Return a machine's name without trademarks, clock and number of cores."""
    return " ".join(_TRADEMARKS.sub(" ", name).split())


def is_compound(engine: MeasuredEngine) -> bool:
    """Return whether the network is the family's member at its phi, by the family's default rule."""
    family = FAMILIES.get(engine.family)
    return (
        family is not None
        and engine.phi is not None
        and engine.rule == family.rule
        and _has_default_side(engine)
    )


def single_axis(engine: MeasuredEngine) -> Axis | None:
    """Return the only axis that was scaled by hand; None for any other network."""
    family = FAMILIES.get(engine.family)
    if family is None or engine.phi is not None or engine.scale is None:
        return None
    return stretched_axis(engine.scale, family.base)


def published_top1(engine: MeasuredEngine) -> PublishedAccuracy | None:
    """Return the published top-1 accuracy of a network on ImageNet; None if there is none."""
    family = FAMILIES.get(engine.family)
    if family is None or family.metric != "top-1" or engine.scale is None:
        return None
    if engine.classes not in (None, family.num_classes):
        return None  # published accuracies are for ImageNet's classes
    return family.accuracy.get(engine.scale)


def _has_default_side(engine: MeasuredEngine) -> bool:
    family = FAMILIES.get(engine.family)
    if family is None or engine.phi is None or engine.rule is None:
        return False
    try:
        return family.scale_for(engine.phi, rule=engine.rule).side_px == engine.side_px
    except DeployError:  # the rule does not reach this phi
        return False
