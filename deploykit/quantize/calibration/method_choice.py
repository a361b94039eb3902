"""What `auto` measured on held-out images, by which it chose a method and what to leave in float."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.util.errors import DeployError


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSum:
    """Errors added up over images. See output_error.image_errors; sums of them are exact."""

    total: Annotated[float, Meta(ge=0)]
    images: Annotated[int, Meta(ge=1)]

    @property
    def mean(self) -> float:
        return self.total / self.images

    def __add__(self, other: "ErrorSum") -> "ErrorSum":
        return ErrorSum(total=self.total + other.total, images=self.images + other.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodScore:
    """The model's output error with every tensor's range read off by one method."""

    method: CalibrationMethod
    error: ErrorSum


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodChoice:
    """The errors a choice was made by.

    Attributes:
        scores: the methods tried.
        noise: the output error with one tensor alone in INT8, by tensor, ranges by the best method.
    """

    scores: Annotated[tuple[MethodScore, ...], Meta(min_length=1)]
    noise: Mapping[str, ErrorSum]

    @property
    def best(self) -> CalibrationMethod:
        """The method of least error; among equals the one tried first."""
        return min(self.scores, key=lambda score: score.error.mean).method

    def merge(self, other: "MethodChoice") -> "MethodChoice":
        """Both one's errors added up.

        Raises:
            DeployError: they tried different methods.
        """
        theirs = {score.method: score.error for score in other.scores}
        if theirs.keys() != {score.method for score in self.scores}:
            raise DeployError(
                "The ranges were chosen among different methods.",
                code="ranges-not-mergeable",
                fix="give --method to read them off by one",
            )
        both = [
            MethodScore(method=score.method, error=score.error + theirs[score.method])
            for score in self.scores
        ]
        noise = {name: error + other.noise[name] for name, error in self.noise.items() if name in other.noise}
        return MethodChoice(scores=tuple(both), noise=noise)
