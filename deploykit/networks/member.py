"""Members: choosing a network of a family by phi, name or scale."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from deploykit.networks.architecture.network import Network
from deploykit.networks.artifact_paths import model_name
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import DEFAULT_FAMILY, find_family
from deploykit.networks.scaling import MAX_SIDE_PX, MIN_SIDE_PX, Coefficients, Rule, Scale
from deploykit.util.errors import DeployError

MAX_MULTIPLE = 64.0  # of the baseline's depth or width; larger networks exceed any GPU's memory


@dataclass(frozen=True, kw_only=True)
class Member:
    """A network of a family at a scale.

    Attributes:
        family: Its family.
        name: Its name in folders and files.
        scale: Its scale.
        phi: The compound coefficient that gave the scale; None if the scale was given directly.
        rule: The rule that phi went through; None without a phi.
    """

    family: Family
    name: str
    scale: Scale
    phi: float | None = None
    rule: Rule | None = None

    def network(self, *, num_classes: int | None = None) -> Network:
        """Build the network, by default with the family's number of classes."""
        if num_classes is None:
            return self._default_network
        return self.family.network(self.scale, num_classes=num_classes)

    @cached_property
    def _default_network(self) -> Network:
        """The network with the family's number of classes, cached since cost models ask often."""
        return self.family.network(self.scale)


def choose_member(
    family: str | Path | Family = DEFAULT_FAMILY,
    *,
    phi: float | None = None,
    named: str | None = None,
    rule: Rule | None = None,
    coefficients: Coefficients | None = None,
    depth: float | None = None,
    width: float | None = None,
    side_px: int | None = None,
) -> Member:
    """Choose a network by phi, by a published member's name, or by its scale.

    Args:
        family: A family, its name, or the path of a Python file that defines FAMILY.
        phi: Compound coefficient; default 0, the baseline.
        named: Name of a published member, for example `b8`, instead of phi.
        rule: How phi scales; default the family's rule.
        coefficients: The formula's; default EfficientNet's.
        depth: Blocks as a multiple of the baseline's, instead of phi's.
        width: Channels as a multiple of the baseline's, instead of phi's.
        side_px: Input side, pixels, instead of phi's.

    Raises:
        DeployError: There is no such family, member or phi, the scale is out of range, or arguments conflict.
    """
    chosen = family if isinstance(family, Family) else find_family(family)
    if named is not None and (phi, rule, coefficients) != (None, None, None):
        raise DeployError(
            "--member cannot be combined with --phi, --rule, --alpha, --beta or --gamma.",
            code="option-conflict",
            fix="remove --member, or the others",
        )
    if coefficients is not None and rule == "published":
        raise DeployError(
            "--alpha, --beta and --gamma do not apply to --rule published.",
            code="option-conflict",
            fix="use --rule formula, or remove them",
        )
    rule = rule or ("formula" if coefficients is not None else chosen.rule)
    member = (
        _choose_by_name(chosen, named)
        if named is not None
        else _choose_by_phi(chosen, phi or 0.0, rule, coefficients)
    )
    return _override_scale(member, depth=depth, width=width, side_px=side_px)


def _choose_by_phi(family: Family, phi: float, rule: Rule, coefficients: Coefficients | None) -> Member:
    scale = family.scale_for(phi, rule=rule, coefficients=coefficients or Coefficients())
    if coefficients not in (None, Coefficients()):
        return Member(family=family, name=model_name(family.name, None, scale=scale), scale=scale)
    return Member(family=family, name=model_name(family.name, phi, rule), scale=scale, phi=phi, rule=rule)


def _choose_by_name(family: Family, name: str) -> Member:
    scale = family.member_scale(name)
    if scale in family.ladder:
        return _choose_by_phi(family, float(family.ladder.index(scale)), family.rule, None)
    return Member(family=family, name=f"{family.name}-{name.lower()}", scale=scale)


def _override_scale(
    member: Member, *, depth: float | None, width: float | None, side_px: int | None
) -> Member:
    for axis, multiple in (("depth", depth), ("width", width)):
        if multiple is not None and not 0 < multiple <= MAX_MULTIPLE:
            raise DeployError(
                f"--{axis} must be above 0 and at most {MAX_MULTIPLE:g}, not {multiple:g}.",
                code="invalid-scale",
                fix=f"give --{axis} as a multiple of the baseline's, for example --{axis} 2",
            )
    scale = Scale(
        depth=member.scale.depth if depth is None else depth,
        width=member.scale.width if width is None else width,
        side_px=member.scale.side_px if side_px is None else side_px,
    )
    if not MIN_SIDE_PX <= scale.side_px <= MAX_SIDE_PX:
        raise DeployError(
            f"--side must be between {MIN_SIDE_PX} and {MAX_SIDE_PX} px, not {scale.side_px}.",
            code="invalid-side",
            fix=f"use --side {member.family.base.side_px}, the baseline's",
        )
    if depth is None and width is None:
        return replace(member, scale=scale)
    return Member(family=member.family, name=model_name(member.family.name, None, scale=scale), scale=scale)


def member_options(member: Member) -> str:
    """Return the options that select a member on the command line: `--family resnet50 --member 50`."""
    family, scale = member.family, member.scale
    name = next(
        (
            name
            for name, each in family.members.items()
            if (each.depth, each.width) == (scale.depth, scale.width)
        ),
        None,
    )
    if name is None:
        return (
            f"--family {family.name} --depth {scale.depth:g} --width {scale.width:g} --side {scale.side_px}"
        )
    side = "" if family.members[name].side_px == scale.side_px else f" --side {scale.side_px}"
    return f"--family {family.name} --member {name}{side}"
