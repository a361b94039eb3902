"""A family: one baseline network, how it is scaled, and what was published about its members."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from deploykit.networks.architecture.network import Network
from deploykit.networks.scaling import PUBLISHED_SCALES, Coefficients, Rule, Scale, scale_for
from deploykit.util.errors import DeployError

DEFAULT_CLASSES = 1000
FRACTION_DIGITS = 9
"""Decimals of a fraction computed from a percentage: more than any source gives, few enough to remove
the error of the division."""

Metric = Literal["top-1", "AP"]
"""top-1: of classifiers on ImageNet's validation set. AP: of detectors on COCO, mean of IoU 0.50 to 0.95."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAccuracy:
    """A published accuracy, in FP32.

    Attributes:
        value: The family's metric as a fraction.
        source: Where it was published.
    """

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """A family of networks: one baseline at different scales.

    Attributes:
        name: Its name for --family, in file names and in metadata.
        title: Its name for people.
        build: Build the network at a scale, with a number of classes.
        ladder: The published members for phi = 0, 1, 2, ...; the first is the baseline.
        members: All published members by name.
        source: Where baseline and members were published.
        accuracy: Published accuracies by scale.
        metric: The metric of these accuracies.
        num_classes: The default number of classes.
    """

    name: str
    title: str
    build: Callable[[Scale, int], Network]
    ladder: tuple[Scale, ...]
    members: Mapping[str, Scale]
    source: str
    accuracy: Mapping[Scale, PublishedAccuracy]
    metric: Metric = "top-1"
    num_classes: int = DEFAULT_CLASSES

    @property
    def base(self) -> Scale:
        """Scale of the baseline."""
        return self.ladder[0]

    @property
    def rule(self) -> Rule:
        """The default rule for phi: `published` if several members were published, otherwise `formula`."""
        return "published" if len(self.ladder) > 1 else "formula"

    @property
    def phi_range(self) -> tuple[float, float]:
        """Range of phi to search: the published members', or EfficientNet's if there is only one."""
        return (0.0, float(len(self.ladder if len(self.ladder) > 1 else PUBLISHED_SCALES) - 1))

    @property
    def default_phis(self) -> tuple[float, ...]:
        """Values of phi for studies and reports: the published members', or 0 to 3 if there is only one."""
        return tuple(float(phi) for phi in range(len(self.ladder) if len(self.ladder) > 1 else 4))

    def scale_for(
        self,
        phi: float,
        *,
        rule: Rule | None = None,
        coefficients: Coefficients = Coefficients(),  # noqa: B008  # frozen
    ) -> Scale:
        """Return the scale for a compound coefficient, see scaling.scale_for."""
        return scale_for(phi, rule=rule or self.rule, ladder=self.ladder, coefficients=coefficients)

    def member_scale(self, name: str) -> Scale:
        """Return the scale of a published member.

        Args:
            name: Its name, in upper or lower case.

        Raises:
            DeployError: The family has no such member.
        """
        if name.lower() not in self.members:
            raise DeployError(
                f"{self.title} has no member {name}.",
                code="unknown-member",
                fix=f"use one of {', '.join(self.members)}",
            )
        return self.members[name.lower()]

    def network(self, scale: Scale, *, num_classes: int | None = None) -> Network:
        """Build the network at a scale."""
        return self.build(scale, self.num_classes if num_classes is None else num_classes)


def published_accuracies(percents: Mapping[Scale, float], source: str) -> dict[Scale, PublishedAccuracy]:
    """Convert accuracies in percent from one source to fractions; 77.1 % is 0.771, not the float below it."""
    return {
        scale: PublishedAccuracy(value=round(percent / 100, FRACTION_DIGITS), source=source)
        for scale, percent in percents.items()
    }
