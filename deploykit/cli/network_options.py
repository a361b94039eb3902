"""Options that say which network."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from deploykit.networks.families.registry import DEFAULT_FAMILY
from deploykit.networks.member import Member, choose_member
from deploykit.networks.scaling import RULES, Coefficients, Rule
from deploykit.util.errors import DeployError

F = TypeVar("F", bound=Callable[..., Any])

family_option = click.option(
    "--family",
    default=DEFAULT_FAMILY,
    show_default=True,
    help="`deploykit families` lists them; or a Python file of your own.",
)
_OPTIONS = (
    family_option,
    click.option("--phi", type=float, help="Compound coefficient; fractions are fine."),
    click.option("--member", help="A published member instead, as b8."),
    click.option(
        "--rule", type=click.Choice(RULES), help="How phi scales; default: as published, if it was."
    ),
    click.option("--alpha", type=float, help="Of the formula: depth is alpha^phi; default 1.2."),
    click.option("--beta", type=float, help="Width is beta^phi; default 1.1."),
    click.option("--gamma", type=float, help="Side is gamma^phi times the baseline's; default 1.15."),
    click.option("--depth", type=float, help="Times the baseline's blocks, instead of phi's."),
    click.option("--width", type=float, help="Times the baseline's channels, instead of phi's."),
    click.option("--side", "side_px", type=int, help="Input side in pixels, instead of phi's."),
)


def network_options(command: F) -> F:
    """Gives a command the options above, as the arguments of `chosen`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen(
    *,
    family: str,
    phi: float | None,
    member: str | None,
    rule: Rule | None,
    alpha: float | None,
    beta: float | None,
    gamma: float | None,
    depth: float | None,
    width: float | None,
    side_px: int | None,
) -> Member:
    """The network that the options name.

    Raises:
        DeployError: they name none, or make no sense.
    """
    if not names_network(phi=phi, member=member, depth=depth, width=width, side_px=side_px):
        raise DeployError(
            "Which network?",
            code="network-not-named",
            fix="give --phi 3, --member b3, or --depth, --width and --side",
        )
    return choose_member(
        family,
        phi=phi,
        named=member,
        rule=rule,
        coefficients=_coefficients(alpha, beta, gamma),
        depth=depth,
        width=width,
        side_px=side_px,
    )


def names_network(**options: Any) -> bool:
    """Whether the options above, or these of them, say more than a family."""
    return any(value is not None for name, value in options.items() if name != "family")


def _coefficients(alpha: float | None, beta: float | None, gamma: float | None) -> Coefficients | None:
    given = {"depth": alpha, "width": beta, "side": gamma}
    known = {name: value for name, value in given.items() if value is not None}
    return Coefficients(**known) if known else None
