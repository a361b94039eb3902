"""The layers that a compiler produced, and whether they have the requested precision."""

from dataclasses import dataclass, replace

from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

_PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32")
_MAX_MISSING = 0.1  # of the products; with more missing, the others say too little about the engine
_FIXES: dict[Precision, str] = {
    "int8": "remove --int8-policy and --int8-include, or report this together with the model",
    "fp16": "build with another precision, and report this together with the model",
    "fp32": "build with another precision, and report this together with the model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that a layer reads and writes.

    Attributes:
        fixed_bytes: Independent of the batch: weights, or everything in a profile with one batch size.
        image_bytes: In addition for each image.
    """

    fixed_bytes: int
    image_bytes: int

    def size_bytes(self, batch: int) -> int:
        """Return the bytes for a batch of this size."""
        return self.fixed_bytes + batch * self.image_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledLayer:
    """A kernel, or several that are launched as one.

    Attributes:
        name, kind: As reported by the compiler.
        nodes: Graph nodes that it computes.
        products: How many of these are convolutions or matrix products.
        macs: Their multiply-accumulates per image.
        precision: Of their inputs; None without products.
        padded: Channels that it reads per channel of the model; 1 without padding.
        is_depthwise: Whether its product is a depthwise convolution.
        is_reformat: Whether it only changes layout or type.
        profile: Index of the optimization profile that it belongs to.
        traffic: Bytes read and written; None if the compiler does not report them.
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
        """Whether a product is fused with other nodes."""
        return 0 < self.products < len(self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The layers of a compiled engine.

    Attributes:
        source: Where they were read: `builder log`, `engine inspector`, or ONNX Runtime's optimized graph.
        graph_products: Convolutions and matrix products in the graph that was compiled.
    """

    source: str
    layers: tuple[CompiledLayer, ...]
    graph_products: int = 0

    @property
    def missing_products(self) -> int:
        """Products of the graph that no layer reports to compute."""
        return max(self.graph_products - sum(layer.products for layer in self.layers), 0)

    @property
    def profiles(self) -> "tuple[Audit, ...]":
        """An audit for each optimization profile: each has separate layers for the whole graph."""
        numbers = sorted({layer.profile for layer in self.layers}) or [0]
        return tuple(
            replace(self, layers=tuple(layer for layer in self.layers if layer.profile == number))
            for number in numbers
        )

    def product_count(self, precision: Precision) -> int:
        """Return how many convolutions and matrix products are computed in this precision."""
        return sum(layer.products for layer in self.layers if layer.precision == precision)

    def macs_share(self, precision: Precision) -> float:
        """Return the fraction of the multiply-accumulates computed in this precision, from 0 to 1."""
        total = sum(layer.macs for layer in self.layers)
        return sum(layer.macs for layer in self.layers if layer.precision == precision) / (total or 1)

    @property
    def padded_depthwise(self) -> tuple[CompiledLayer, ...]:
        """Depthwise convolutions that read padded channels."""
        return tuple(layer for layer in self.layers if layer.is_depthwise and layer.padded > 1)

    def summary(self) -> str:
        """Return a description in one line."""
        parts = [each._summarize_layers() for each in self.profiles]
        if len(parts) > 1 and len(set(parts)) == 1:
            parts = [f"each of {len(parts)} profiles: {parts[0]}"]
        elif len(parts) > 1:
            parts = [f"profile {number}: {part}" for number, part in enumerate(parts)]
        return f"{'; '.join(parts)} ({self.source})"

    def _summarize_layers(self) -> str:
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
        """Check that every profile of the engine has a precision.

        Args:
            planned_int8: How many products the graph has in INT8.
            on_cpu: Whether the rest of an INT8 engine is FP32, as on the CPU, rather than FP16.

        Raises:
            DeployError: An INT8 engine has less INT8 than planned, an FP16 engine has anything but FP16, and
                so on; or more than a tenth of the products is missing.
        """
        for profile in self.profiles:
            int8, fp16, fp32 = map(profile.product_count, _PRECISIONS)
            is_as_requested = {
                "int8": int8 >= planned_int8 and (on_cpu or fp32 == 0),
                "fp16": fp16 > 0 and int8 == fp32 == 0,
                "fp32": fp32 > 0 and int8 == fp16 == 0,
            }
            if not is_as_requested[precision]:
                raise DeployError(
                    f"The compiled engine is not {precision.upper()} as requested: {self.summary()}.",
                    code="engine-precision-mismatch",
                    fix=_FIXES[precision],
                )
            if profile.missing_products > _MAX_MISSING * self.graph_products:
                raise DeployError(
                    f"Too many layers of this model can't be found in the compiled engine: {self.summary()}.",
                    code="engine-audit-failed",
                    fix="report this together with the model",
                )
