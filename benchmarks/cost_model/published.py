"""Read the published latencies, and build their networks."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from deploykit.networks.architecture.network import Activation, Network
from deploykit.networks.families.registry import find_family
from deploykit.util.types import Precision

PUBLISHED_CSV = Path(__file__).parent / "published_latency.csv"
PRECISION: dict[str, Precision] = {"fp16": "fp16", "int8": "int8"}
RELU6 = "-relu6"  # suffix of a network whose SiLU was replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLatency:
    """One published latency; PyTorch's are upper bounds for TensorRT.

    Attributes:
        side_px: Side of the images; None for the network's default.
    """

    runtime: Literal["tensorrt", "pytorch"]
    gpu: str
    family: str
    network: str
    side_px: int | None
    precision: Precision
    batch: int
    latency_ms: float

    @property
    def design(self) -> str:
        """The design that its family is one size of: `resnet`, `efficientnetv2`."""
        return re.sub(r"(?<=resnet)\d+|-.*", "", self.family)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return build_network(self.family, self.network, self.side_px).macs


def read_published(path: Path = PUBLISHED_CSV) -> tuple[PublishedLatency, ...]:
    """Return the published latencies, in the order of the file."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(
            PublishedLatency(
                runtime="pytorch" if line["runtime"] == "pytorch" else "tensorrt",
                gpu=line["gpu"],
                family=line["family"],
                network=line["network"],
                side_px=int(line["side_px"]) if line["side_px"] else None,
                precision=PRECISION[line["precision"]],
                batch=int(line["batch"]),
                latency_ms=float(line["latency_ms"]),
            )
            for line in csv.DictReader(file)
        )


@cache
def build_network(family: str, name: str, side_px: int | None = None) -> Network:
    """Return the network of a published latency."""
    found = find_family(family)
    scale = found.member_scale(name.removesuffix(RELU6))
    network = found.network(scale if side_px is None else replace(scale, side_px=side_px))
    if not name.endswith(RELU6):
        return network
    layers = (
        replace(layer, kind="relu6") if isinstance(layer, Activation) and layer.kind == "silu" else layer
        for layer in network.layers
    )
    return replace(network, layers=tuple(layers))


def keep_tensorrt(rows: Iterable[PublishedLatency]) -> tuple[PublishedLatency, ...]:
    """Return the rows that are to be predicted."""
    return tuple(row for row in rows if row.runtime == "tensorrt")
