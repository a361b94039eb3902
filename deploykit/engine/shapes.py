"""Batch sizes and image sides that an engine accepts. Each batch range is one optimization profile."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from deploykit.util.errors import DeployError

MAX_BATCH = 65536  # far beyond any useful batch, and within every compiler's integers
MIN_SIDE_PX, MAX_SIDE_PX = 32, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRange:
    """Batch sizes that an engine accepts, and the one that it is tuned for."""

    min: int = 1
    opt: int = 1
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= MAX_BATCH:
            raise DeployError(
                f"Batch range {self.min},{self.opt},{self.max} is not MIN,OPT,MAX in increasing order "
                f"between 1 and {MAX_BATCH}.",
                code="invalid-batch",
                fix="give, for example, --batch 1,8,64",
            )

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min} to {self.max}"

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the range that a text such as `1,8,64` denotes; `8` is that size only."""
        if (sizes := _parse_sizes(text)) is None:
            raise DeployError(
                f"{text!r} is not a batch range.",
                code="invalid-batch",
                fix="give one size, or MIN,OPT,MAX such as 1,8,64",
            )
        return cls(min=sizes[0], opt=sizes[1], max=sizes[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRange:
    """Sides of the square images that an engine accepts, and the one that it is tuned for, pixels."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not MIN_SIDE_PX <= self.min <= self.opt <= self.max <= MAX_SIDE_PX:
            raise DeployError(
                f"Side range {self.min},{self.opt},{self.max} is not MIN,OPT,MAX in increasing order "
                f"between {MIN_SIDE_PX} and {MAX_SIDE_PX} px.",
                code="invalid-side",
                fix="give, for example, --side 224,300,380",
            )

    def __str__(self) -> str:
        return f"{self.min} px" if self.min == self.max else f"{self.min} to {self.max} px"

    def __contains__(self, side_px: int) -> bool:
        return self.min <= side_px <= self.max

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the range that a text such as `224,300,380` denotes."""
        if (sizes := _parse_sizes(text)) is None:
            raise DeployError(
                f"{text!r} is not a side range.",
                code="invalid-side",
                fix="give MIN,OPT,MAX such as 224,300,380",
            )
        return cls(min=sizes[0], opt=sizes[1], max=sizes[2])


def parse_profiles(text: str) -> tuple[BatchRange, ...]:
    """Return the batch ranges that a text such as `1;8;1,16,64` denotes, one profile each."""
    ranges = tuple(BatchRange.parse(part) for part in text.split(";"))
    if len(set(ranges)) < len(ranges):
        raise DeployError(
            f"{text!r} names the same profile twice.",
            code="profile-repeated",
            fix="name each profile once, for example --profiles '1;8;64'",
        )
    return ranges


def tightest_profile(batches: Sequence[BatchRange], size: int) -> int | None:
    """Return the index of the narrowest range that includes a batch size; None if none does."""
    matching = [index for index, each in enumerate(batches) if size in each]
    return min(matching, key=lambda index: (batches[index].max - batches[index].min, index), default=None)


def round_up_batch(batches: Sequence[BatchRange], size: int) -> int:
    """Return the smallest accepted batch of at least this size, or the largest accepted batch of all."""
    if tightest_profile(batches, size) is not None:
        return size
    return min((each.min for each in batches if each.min > size), default=max(each.max for each in batches))


def format_batches(batches: Sequence[BatchRange]) -> str:
    """Return the ranges as text: `1 to 64`, or `1, 8 or 64`."""
    *firsts, last = map(str, batches)
    return f"{', '.join(firsts)} or {last}" if firsts else last


def _parse_sizes(text: str) -> tuple[int, int, int] | None:
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
