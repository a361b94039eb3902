"""A family: one baseline, how it is stretched, and what was published of its members."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from deploykit.networks.architecture.network import Network
from deploykit.networks.scaling import PUBLISHED_SCALES, Coefficients, Rule, Scale, scale_for
from deploykit.util.errors import DeployError

DEFAULT_CLASSES = 1000
FRACTION_DIGITS = 9
"""Of a fraction that was a percentage: more than anybody gives, few enough to undo what dividing adds."""

Metric = Literal["top-1", "AP"]
"""Of classifiers on ImageNet's validation set; of detectors on COCO, averaged over IoU 0.50 to 0.95."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAccuracy:
    """Attributes: value: by the family's metric, as a fraction, in FP32; source: who published it."""

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """Networks that are one baseline, stretched.

    Attributes:
        name: as --family has it, in file names and in metadata.
        title: as people write it.
        build: makes the network at a scale, with so many classes.
        ladder: the published members that phi = 0, 1, 2, ... lead to; the first is the baseline.
        members: all published ones, by name.
        accuracy: what was published of some scales.
        source: where baseline and members are from.
        metric: what that accuracy is.
        classes: how many a network has where nobody says.
    """

    name: str
    title: str
    build: Callable[[Scale, int], Network]
    ladder: tuple[Scale, ...]
    members: Mapping[str, Scale]
    source: str
    accuracy: Mapping[Scale, PublishedAccuracy]
    metric: Metric = "top-1"
    classes: int = DEFAULT_CLASSES

    @property
    def base(self) -> Scale:
        return self.ladder[0]

    @property
    def rule(self) -> Rule:
        """What phi goes through where nobody says: the published members, where there is more than one."""
        return "published" if len(self.ladder) > 1 else "formula"

    @property
    def phi_range(self) -> tuple[float, float]:
        """Where to look for a phi: the published members, or as far as EfficientNet's go."""
        return (0.0, float(len(self.ladder if len(self.ladder) > 1 else PUBLISHED_SCALES) - 1))

    @property
    def default_phis(self) -> tuple[float, ...]:
        """Those of the published members; 0 to 3 where there is but one."""
        return tuple(float(phi) for phi in range(len(self.ladder) if len(self.ladder) > 1 else 4))

    def scale_for(
        self,
        phi: float,
        *,
        rule: Rule | None = None,
        coefficients: Coefficients = Coefficients(),  # noqa: B008  # frozen
    ) -> Scale:
        """The scale that phi leads to, see scaling.scale_for."""
        return scale_for(phi, rule=rule or self.rule, ladder=self.ladder, coefficients=coefficients)

    def member_scale(self, name: str) -> Scale:
        """The scale of a published member.

        Raises:
            DeployError: none is called that.
        """
        if name.lower() not in self.members:
            raise DeployError(
                f"{self.title} has no member {name}.",
                code="unknown-member",
                fix=f"take one of {', '.join(self.members)}",
            )
        return self.members[name.lower()]

    def network(self, scale: Scale, *, num_classes: int | None = None) -> Network:
        return self.build(scale, self.classes if num_classes is None else num_classes)


def published_accuracies(percents: Mapping[Scale, float], source: str) -> dict[Scale, PublishedAccuracy]:
    """Accuracies in percent, as one source has them; of 77.1 % the fraction is 0.771, not the float below."""
    return {
        scale: PublishedAccuracy(value=round(percent / 100, FRACTION_DIGITS), source=source)
        for scale, percent in percents.items()
    }
