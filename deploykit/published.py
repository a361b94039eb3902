"""Accuracies that others published: what measured latency is weighed against."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from deploykit.scaling import BASE, PUBLISHED, Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTop1:
    """Attributes: top1: on ImageNet's validation set, as a fraction, of the FP32 network."""

    top1: float
    source: str


_PERCENT = (77.1, 79.1, 80.1, 81.6, 82.9, 83.6, 84.0, 84.3)  # arXiv:1905.11946, Table 2
_STRETCHED_PERCENT = {  # arXiv:1905.11946, Table 7: B0 along one axis
    replace(BASE, depth=4.0): 79.0,
    replace(BASE, width=2.0): 78.9,
    replace(BASE, side_px=2 * BASE.side_px): 79.1,
}
STRETCHED = tuple(_STRETCHED_PERCENT)


def _sourced(percents: Mapping[Scale, float], table: str) -> dict[Scale, PublishedTop1]:
    source = f"Tan and Le 2019, arXiv:1905.11946, {table}"
    return {scale: PublishedTop1(top1=percent / 100, source=source) for scale, percent in percents.items()}


_EFFICIENTNET = {
    **_sourced(dict(zip(PUBLISHED, _PERCENT, strict=True)), "Table 2"),
    **_sourced(_STRETCHED_PERCENT, "Table 7"),
}


def published_top1(scale: Scale) -> PublishedTop1 | None:
    """Of EfficientNet at that scale; None where it was not published."""
    return _EFFICIENTNET.get(scale)
