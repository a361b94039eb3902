"""What the compiler really made, and whether that is what was asked for."""

from collections.abc import Iterable
from dataclasses import dataclass

from deploykit.errors import DeployError
from deploykit.model_file import Precision

_PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32")
_FIXES: dict[Precision, str] = {
    "int8": "leave out --int8-policy and --int8-include; if they weren't there, report this with the model",
    "fp16": "build with another precision, and report this with the model",
    "fp32": "build with another precision, and report this with the model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledLayer:
    """A kernel, or a few that are launched as one.

    Attributes:
        name, kind: as the compiler calls it.
        nodes: of the graph, that it computes.
        products: how many of these are convolutions and matrix products.
        macs: multiply-accumulates an image of those.
        precision: of what they read; None where it has none.
        padded: how many channels it reads for one of the model's; 1 where nothing is padded.
        is_depthwise: its product is a depthwise convolution.
        is_reformat: it computes nothing, but changes layout or type.
    """

    name: str
    kind: str
    nodes: tuple[str, ...] = ()
    products: int = 0
    macs: int = 0
    precision: Precision | None = None
    padded: float = 1.0
    is_depthwise: bool = False
    is_reformat: bool = False

    @property
    def is_fused(self) -> bool:
        """Whether a product has been joined with other nodes."""
        return 0 < self.products < len(self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The layers of a compiled engine.

    Attributes:
        source: where this was read: `builder log`, `engine inspector`, or ONNX Runtime's optimized graph.
        unseen: products of the graph that no layer says it computes.
    """

    source: str
    layers: tuple[CompiledLayer, ...]
    unseen: int = 0

    def products(self, precision: Precision) -> int:
        """How many convolutions and matrix products are computed in it."""
        return sum(layer.products for layer in self.layers if layer.precision == precision)

    def share(self, precision: Precision) -> float:
        """The part of the multiply-accumulates that is computed in it, from 0 to 1."""
        total = sum(layer.macs for layer in self.layers)
        return sum(layer.macs for layer in self.layers if layer.precision == precision) / (total or 1)

    @property
    def padded_depthwise(self) -> tuple[CompiledLayer, ...]:
        return tuple(layer for layer in self.layers if layer.is_depthwise and layer.padded > 1)

    def summary(self) -> str:
        """One line."""
        products = [
            f"{count} {each.upper()} ({100 * self.share(each):.1f} % of the work)"
            for each in _PRECISIONS
            if (count := self.products(each))
        ]
        parts = [
            f"{len(self.layers)} layers, {sum(layer.is_reformat for layer in self.layers)} of them reformats",
            f"convolutions and matrix products: {', '.join(products) or 'none'}",
            f"{sum(layer.is_fused for layer in self.layers)} fused with other nodes",
        ]
        if padded := self.padded_depthwise:
            most = max(layer.padded for layer in padded)
            parts.append(f"{len(padded)} depthwise ones padded, up to {most:.3g} times the channels")
        if self.unseen:
            parts.append(f"{self.unseen} not found")
        return f"{'; '.join(parts)} ({self.source})"

    def require(self, precision: Precision, *, planned_int8: int = 1) -> None:
        """Fails where the engine is not of that precision.

        Args:
            planned_int8: how many products the graph spells out in INT8.

        Raises:
            DeployError: less INT8 than planned, or anything but FP16 in an FP16 engine, and so on.
        """
        int8, fp16, fp32 = map(self.products, _PRECISIONS)
        right = {
            "int8": int8 >= planned_int8,
            "fp16": fp16 > 0 and int8 == fp32 == 0,
            "fp32": fp32 > 0 and int8 == fp16 == 0,
        }
        if not right[precision]:
            raise DeployError(
                f"The compiler was asked for {precision.upper()} and made something else: {self.summary()}.",
                fix=_FIXES[precision],
            )


def audit(source: str, layers: Iterable[CompiledLayer], *, products: int) -> Audit:
    """The audit of layers of a graph with so many products."""
    layers = tuple(layers)
    return Audit(source=source, layers=layers, unseen=products - sum(layer.products for layer in layers))
