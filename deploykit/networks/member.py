"""Which network of a family somebody means."""

from dataclasses import dataclass, replace
from functools import cached_property

from deploykit.networks.architecture.network import Network
from deploykit.networks.artifact_paths import model_name
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import DEFAULT_FAMILY, find_family
from deploykit.networks.scaling import MAX_SIDE_PX, MIN_SIDE_PX, Coefficients, Rule, Scale
from deploykit.util.errors import DeployError

MAX_MULTIPLE = 64.0  # of the baseline's depth or width: beyond, no such network fits a memory


@dataclass(frozen=True, kw_only=True)
class Member:
    """A network of a family, at a scale.

    Attributes:
        name: as folders and files have it.
        phi, rule: that led to the scale; None where it was given by hand.
    """

    family: Family
    name: str
    scale: Scale
    phi: float | None = None
    rule: Rule | None = None

    def network(self, *, num_classes: int | None = None) -> Network:
        if num_classes is None:
            return self._own_network
        return self.family.network(self.scale, num_classes=num_classes)

    @cached_property
    def _own_network(self) -> Network:
        """With the family's own number of classes: asked for at every batch and precision."""
        return self.family.network(self.scale)


def choose_member(
    family: str | Family = DEFAULT_FAMILY,
    *,
    phi: float | None = None,
    named: str | None = None,
    rule: Rule | None = None,
    coefficients: Coefficients | None = None,
    depth: float | None = None,
    width: float | None = None,
    side_px: int | None = None,
) -> Member:
    """The network that a user means.

    Args:
        family: one, or what families.find_family takes.
        phi: compound coefficient; default 0, the baseline.
        named: a published member instead, as `b8`.
        rule: how phi scales; default the family's own.
        coefficients: of the formula; default EfficientNet's.
        depth, width: multiples of the baseline's, instead of what phi leads to.
        side_px: input side, instead of what phi leads to.

    Raises:
        DeployError: no such family, member or phi, a scale that makes no network, or arguments that
            contradict each other.
    """
    found = family if isinstance(family, Family) else find_family(family)
    if named is not None and (phi, rule, coefficients) != (None, None, None):
        raise DeployError(
            "--member and --phi both name a network.", code="option-conflict", fix="leave one of them out"
        )
    if coefficients is not None and rule == "published":
        raise DeployError(
            "Published members have no --alpha, --beta or --gamma.",
            code="option-conflict",
            fix="add --rule formula, or leave them out",
        )
    rule = rule or ("formula" if coefficients is not None else found.rule)
    member = _named(found, named) if named is not None else _at(found, phi or 0.0, rule, coefficients)
    return _by_hand(member, depth=depth, width=width, side_px=side_px)


def _at(family: Family, phi: float, rule: Rule, coefficients: Coefficients | None) -> Member:
    scale = family.scale_for(phi, rule=rule, coefficients=coefficients or Coefficients())
    if coefficients not in (None, Coefficients()):
        return Member(family=family, name=model_name(family.name, None, scale=scale), scale=scale)
    return Member(family=family, name=model_name(family.name, phi, rule), scale=scale, phi=phi, rule=rule)


def _named(family: Family, name: str) -> Member:
    scale = family.member_scale(name)
    if scale in family.ladder:
        return _at(family, float(family.ladder.index(scale)), family.rule, None)
    return Member(family=family, name=f"{family.name}-{name.lower()}", scale=scale)


def _by_hand(member: Member, *, depth: float | None, width: float | None, side_px: int | None) -> Member:
    for what, multiple in (("depth", depth), ("width", width)):
        if multiple is not None and not 0 < multiple <= MAX_MULTIPLE:
            raise DeployError(
                f"A {what} of {multiple:g} times the baseline's makes no network.",
                code="invalid-scale",
                fix=f"give --{what} above 0, at most {MAX_MULTIPLE:g}",
            )
    scale = Scale(
        depth=member.scale.depth if depth is None else depth,
        width=member.scale.width if width is None else width,
        side_px=member.scale.side_px if side_px is None else side_px,
    )
    if not MIN_SIDE_PX <= scale.side_px <= MAX_SIDE_PX:
        raise DeployError(
            f"A side of {scale.side_px} px is not between {MIN_SIDE_PX} and {MAX_SIDE_PX} px.",
            code="invalid-side",
            fix=f"give --side {member.family.base.side_px}, the baseline's",
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
