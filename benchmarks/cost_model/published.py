"""The published latencies, and the networks they are of."""

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
RELU6 = "-relu6"  # of a network whose SiLU was replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published latency; PyTorch's are what TensorRT takes at most.

    Attributes: side_px: None for the network's own.
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
        """What its family is a size of: `resnet`, `efficientnetv2`."""
        return re.sub(r"(?<=resnet)\d+|-.*", "", self.family)

    @property
    def macs(self) -> int:
        """Of one image."""
        return network_of(self.family, self.network, self.side_px).macs


def read_rows(path: Path = PUBLISHED_CSV) -> tuple[Row, ...]:
    """The published figures, in the file's order."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(
            Row(
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
def network_of(family: str, name: str, side_px: int | None = None) -> Network:
    """The network a figure is of."""
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


def of_tensorrt(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Those that are to be predicted."""
    return tuple(row for row in rows if row.runtime == "tensorrt")
