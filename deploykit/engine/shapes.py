"""Batch sizes and sides an engine takes: each range of batches is an optimization profile of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from deploykit.util.errors import DeployError

MAX_BATCH = 65536  # far beyond what has ever paid, and within every compiler's integers
SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 32, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRange:
    """Batch sizes an engine takes, and the one it is tuned for."""

    min: int = 1
    opt: int = 1
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= MAX_BATCH:
            raise DeployError(
                f"A batch of {self.min},{self.opt},{self.max} is not MIN,OPT,MAX in rising order from 1 "
                f"to {MAX_BATCH}.",
                code="invalid-batch",
                fix="give, say, --batch 1,8,64",
            )

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min} to {self.max}"

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max

    @classmethod
    def parse(cls, text: str) -> Self:
        """`1,8,64`, or `8` for that size alone."""
        if (range_ := _parsed(text)) is None:
            raise DeployError(
                f"{text!r} is no batch range.",
                code="invalid-batch",
                fix="give one size, or MIN,OPT,MAX as in 1,8,64",
            )
        return cls(min=range_[0], opt=range_[1], max=range_[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRange:
    """Sides of the square images an engine takes, and the one it is tuned for, pixels."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not SMALLEST_SIDE_PX <= self.min <= self.opt <= self.max <= LARGEST_SIDE_PX:
            raise DeployError(
                f"A side of {self.min},{self.opt},{self.max} is not MIN,OPT,MAX in rising order from "
                f"{SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX} px.",
                code="invalid-side",
                fix="give, say, --side 224,300,380",
            )

    def __str__(self) -> str:
        return f"{self.min} px" if self.min == self.max else f"{self.min} to {self.max} px"

    def __contains__(self, side_px: int) -> bool:
        return self.min <= side_px <= self.max

    @classmethod
    def parse(cls, text: str) -> Self:
        """`224,300,380`."""
        if (range_ := _parsed(text)) is None:
            raise DeployError(
                f"{text!r} is no range of sides.",
                code="invalid-side",
                fix="give MIN,OPT,MAX as in 224,300,380",
            )
        return cls(min=range_[0], opt=range_[1], max=range_[2])


def parse_profiles(text: str) -> tuple[BatchRange, ...]:
    """`1;8;64`, a profile each: one size, or MIN,OPT,MAX."""
    ranges = tuple(BatchRange.parse(part) for part in text.split(";"))
    if len(set(ranges)) < len(ranges):
        raise DeployError(
            f"Two profiles of {text!r} are the same.",
            code="profile-repeated",
            fix="name each once, as in '1;8;64'",
        )
    return ranges


def tightest_profile(batches: Sequence[BatchRange], size: int) -> int | None:
    """Which of the ranges that hold a batch is the narrowest; None where none does."""
    holding = [at for at, each in enumerate(batches) if size in each]
    return min(holding, key=lambda at: (batches[at].max - batches[at].min, at), default=None)


def round_up_batch(batches: Sequence[BatchRange], size: int) -> int:
    """The smallest batch that some range holds, of this size or more; the largest of all where none is."""
    if tightest_profile(batches, size) is not None:
        return size
    return min((each.min for each in batches if each.min > size), default=max(each.max for each in batches))


def format_batches(batches: Sequence[BatchRange]) -> str:
    """`1 to 64`, or `1, 8 or 64`."""
    *firsts, last = map(str, batches)
    return f"{', '.join(firsts)} or {last}" if firsts else last


def _parsed(text: str) -> tuple[int, int, int] | None:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        return None
    match sizes:
        case [low, best, high]:
            return low, best, high
        case [only]:
            return only, only, only
    return None
