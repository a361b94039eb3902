"""Options that choose a network."""

from dataclasses import dataclass, replace

import click

from deploykit.cli.option_groups import option_group
from deploykit.networks.families.registry import DEFAULT_FAMILY, find_family
from deploykit.networks.member import Member, choose_member
from deploykit.networks.scaling import RULES, Coefficients, Rule
from deploykit.util.errors import DeployError


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkChoice:
    """A network as the options name it.

    Attributes:
        family: A family's name, or a Python file that defines one.
        phi: Compound coefficient.
        member: A published member's name, for example `b3`.
        rule: How phi scales the baseline; None for the family's own rule.
        alpha, beta, gamma: Coefficients of the formula; None for EfficientNet's.
        depth, width: Multiples of the baseline's blocks and channels, instead of what phi gives.
        side_px: Input side, instead of what phi gives.
    """

    family: str = DEFAULT_FAMILY
    phi: float | None = None
    member: str | None = None
    rule: Rule | None = None
    alpha: float | None = None
    beta: float | None = None
    gamma: float | None = None
    depth: float | None = None
    width: float | None = None
    side_px: int | None = None

    @property
    def names_only_family(self) -> bool:
        """Whether no option but --family was given."""
        return self == NetworkChoice(family=self.family)

    def resolve(self) -> Member:
        """Return the network that the options name.

        Raises:
            DeployError: The options name no network, or contradict each other.
        """
        find_family(self.family)  # a wrong family is the first mistake to report
        named = (self.phi, self.member, self.depth, self.width, self.side_px)
        if all(each is None for each in named):
            raise DeployError(
                "No network is named.",
                code="network-not-named",
                fix="give --phi 3, --member b3, or --depth, --width and --side",
            )
        return choose_member(
            self.family,
            phi=self.phi,
            named=self.member,
            rule=self.rule,
            coefficients=self.coefficients,
            depth=self.depth,
            width=self.width,
            side_px=self.side_px,
        )

    @property
    def coefficients(self) -> Coefficients | None:
        """The formula's coefficients, those not given as published; None where none is given."""
        if (self.alpha, self.beta, self.gamma) == (None, None, None):
            return None
        published = Coefficients()
        return replace(
            published,
            depth=published.depth if self.alpha is None else self.alpha,
            width=published.width if self.beta is None else self.beta,
            side=published.side if self.gamma is None else self.gamma,
        )


family_option = click.option(
    "--family",
    default=DEFAULT_FAMILY,
    show_default=True,
    help="Network family (`deploykit families` lists them), or a Python file that defines one.",
)
network_options = option_group(
    "network",
    NetworkChoice,
    (
        family_option,
        click.option("--phi", type=float, help="Compound scaling coefficient; fractions are allowed."),
        click.option("--member", help="Name of a published member, for example b3, instead of --phi."),
        click.option(
            "--rule",
            type=click.Choice(RULES),
            help="How phi scales the baseline; default: the published members where there are any.",
        ),
        click.option("--alpha", type=float, help="Base of the depth formula, alpha^phi; default: 1.2."),
        click.option("--beta", type=float, help="Base of the width formula, beta^phi; default: 1.1."),
        click.option("--gamma", type=float, help="Base of the input side formula, gamma^phi; default: 1.15."),
        click.option("--depth", type=float, help="Multiple of the baseline's blocks, instead of phi's."),
        click.option("--width", type=float, help="Multiple of the baseline's channels, instead of phi's."),
        click.option("--side", "side_px", type=int, help="Input side in pixels, instead of phi's."),
    ),
)
