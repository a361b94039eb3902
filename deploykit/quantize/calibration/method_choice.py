"""What `auto` measured on held-out images: the errors that chose the method and the float fallback."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.util.errors import DeployError


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSum:
    """Errors summed over images, see output_error.image_errors. Sums of these errors are exact."""

    total: Annotated[float, Meta(ge=0)]
    images: Annotated[int, Meta(ge=1)]

    @property
    def mean(self) -> float:
        """Error per image."""
        return self.total / self.images

    def __add__(self, other: "ErrorSum") -> "ErrorSum":
        return ErrorSum(total=self.total + other.total, images=self.images + other.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodScore:
    """The model's output error with the ranges of one method."""

    method: CalibrationMethod
    error: ErrorSum


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodChoice:
    """The errors that decide on a method and on the float fallback.

    Attributes:
        scores: Of the methods that were compared.
        noise: The output error with only one tensor in INT8, by tensor, with the ranges of the best method.
    """

    scores: Annotated[tuple[MethodScore, ...], Meta(min_length=1)]
    noise: Mapping[str, ErrorSum]

    @property
    def best(self) -> CalibrationMethod:
        """The method with the least error; the first of equals."""
        return min(self.scores, key=lambda score: score.error.mean).method

    def merge(self, other: "MethodChoice") -> "MethodChoice":
        """Return the summed errors of both.

        Raises:
            DeployError: They compared different methods.
        """
        theirs = {score.method: score.error for score in other.scores}
        if theirs.keys() != {score.method for score in self.scores}:
            raise DeployError(
                "The ranges were chosen among different methods.",
                code="ranges-not-mergeable",
                fix="add --method to use one method for all",
            )
        scores = [
            MethodScore(method=score.method, error=score.error + theirs[score.method])
            for score in self.scores
        ]
        noise = {name: error + other.noise[name] for name, error in self.noise.items() if name in other.noise}
        return MethodChoice(scores=tuple(scores), noise=noise)
