"""What the compiler really made, and whether that is what was asked for."""

from dataclasses import dataclass, replace

from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

_PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32")
_MOST_UNSEEN = 0.1  # of the products, so that the claim about the others is still one about the engine
_FIXES: dict[Precision, str] = {
    "int8": "leave out --int8-policy and --int8-include; if they weren't there, report this with the model",
    "fp16": "build with another precision, and report this with the model",
    "fp32": "build with another precision, and report this with the model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a layer reads and writes.

    Attributes:
        fixed_bytes: whatever the batch: weights, and in a profile of one batch size all there is.
        image_bytes: for each image besides.
    """

    fixed_bytes: int
    image_bytes: int

    def size_bytes(self, batch: int) -> int:
        return self.fixed_bytes + batch * self.image_bytes


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
        profile: of the engine's optimization profiles, the one it is of.
        traffic: None where the compiler doesn't tell it.
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
    profile: int = 0
    traffic: Traffic | None = None

    @property
    def is_fused(self) -> bool:
        """Whether a product has been joined with other nodes."""
        return 0 < self.products < len(self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The layers of a compiled engine.

    Attributes:
        source: where this was read: `builder log`, `engine inspector`, or ONNX Runtime's optimized graph.
        graph_products: convolutions and matrix products of the graph that was compiled.
    """

    source: str
    layers: tuple[CompiledLayer, ...]
    graph_products: int = 0

    @property
    def missing_products(self) -> int:
        """Products of the graph that no layer says it computes."""
        return max(self.graph_products - sum(layer.products for layer in self.layers), 0)

    @property
    def profiles(self) -> "tuple[Audit, ...]":
        """An audit of each optimization profile, which has layers of its own for the whole graph."""
        numbers = sorted({layer.profile for layer in self.layers}) or [0]
        return tuple(
            replace(self, layers=tuple(layer for layer in self.layers if layer.profile == number))
            for number in numbers
        )

    def product_count(self, precision: Precision) -> int:
        """How many convolutions and matrix products are computed in it."""
        return sum(layer.products for layer in self.layers if layer.precision == precision)

    def macs_share(self, precision: Precision) -> float:
        """The part of the multiply-accumulates that is computed in it, from 0 to 1."""
        total = sum(layer.macs for layer in self.layers)
        return sum(layer.macs for layer in self.layers if layer.precision == precision) / (total or 1)

    @property
    def padded_depthwise(self) -> tuple[CompiledLayer, ...]:
        return tuple(layer for layer in self.layers if layer.is_depthwise and layer.padded > 1)

    def summary(self) -> str:
        """One line."""
        found = [each._words() for each in self.profiles]
        if len(found) > 1 and len(set(found)) == 1:
            found = [f"each of {len(found)} profiles: {found[0]}"]
        elif len(found) > 1:
            found = [f"profile {number}: {words}" for number, words in enumerate(found)]
        return f"{'; '.join(found)} ({self.source})"

    def _words(self) -> str:
        products = [
            f"{count} {each.upper()} ({100 * self.macs_share(each):.1f} % of the work)"
            for each in _PRECISIONS
            if (count := self.product_count(each))
        ]
        parts = [
            f"{len(self.layers)} layers, {sum(layer.is_reformat for layer in self.layers)} of them reformats",
            f"convolutions and matrix products: {', '.join(products) or 'none'}",
            f"{sum(layer.is_fused for layer in self.layers)} fused with other nodes",
        ]
        if padded := self.padded_depthwise:
            most = max(layer.padded for layer in padded)
            parts.append(f"{len(padded)} depthwise ones padded, up to {most:.3g} times the channels")
        if self.missing_products:
            parts.append(f"{self.missing_products} not found")
        return "; ".join(parts)

    def require_precision(self, precision: Precision, *, planned_int8: int = 1, on_cpu: bool = False) -> None:
        """Fails where the engine is not of that precision, in some profile.

        Args:
            planned_int8: how many products the graph spells out in INT8.
            on_cpu: what is not in INT8 is in FP32 there, and in FP16 elsewhere.

        Raises:
            DeployError: less INT8 than planned, or anything but FP16 in an FP16 engine, and so on; or more
                than a tenth of the products can't be found, so that nobody knows.
        """
        for profile in self.profiles:
            int8, fp16, fp32 = map(profile.product_count, _PRECISIONS)
            right = {
                "int8": int8 >= planned_int8 and (on_cpu or fp32 == 0),
                "fp16": fp16 > 0 and int8 == fp32 == 0,
                "fp32": fp32 > 0 and int8 == fp16 == 0,
            }
            if not right[precision]:
                raise DeployError(
                    f"The compiler was asked for {precision.upper()} and made something else: "
                    f"{self.summary()}.",
                    code="engine-precision-mismatch",
                    fix=_FIXES[precision],
                )
            if profile.missing_products > _MOST_UNSEEN * self.graph_products:
                raise DeployError(
                    f"What the compiler made of this model can't be told: {self.summary()}.",
                    code="engine-audit-failed",
                    fix="report this with the model",
                )
