"""Layers -> the kernels TensorRT launches for them, each with its work and its traffic.

References:
    NVIDIA TensorRT Developer Guide, "Layer Fusion": a convolution takes its batch norm, its
    activation and the residual sum after it into its epilogue.
"""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

from deploykit.networks.architecture.network import (
    INPUT,
    Activation,
    ActivationKind,
    Add,
    ChannelScale,
    Convolution,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
    Shape,
)

KernelKind = Literal[
    "dense", "pointwise", "grouped", "depthwise", "linear", "pool", "scale", "activation", "elementwise"
]
KERNEL_KINDS: tuple[KernelKind, ...] = get_args(KernelKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One launch; its figures are for one image, with channels padded as they are stored.

    Attributes:
        name: the layer it starts with.
        kind: `dense` (convolution over a window), `pointwise` (1x1), `grouped`, `depthwise`, `linear`,
            `pool`, `scale` (squeeze-excite's product), `activation` (one not fused), `elementwise`.
        macs: multiply-accumulates.
        read_elements: activation elements read; a residual sum reads its shortcut too.
        written_elements: activation elements written.
        weight_elements: parameters read, once however large the batch.
    """

    name: str
    kind: KernelKind
    macs: int
    read_elements: int
    written_elements: int
    weight_elements: int


def kernels(
    network: Network, *, unfused: Collection[ActivationKind] = (), channel_granule: int = 1
) -> tuple[Kernel, ...]:
    """Every kernel of `network`, in order of execution.

    An activation or a residual sum joins the kernel that made its first input, where nothing else
    reads that.

    Args:
        network: what is to run.
        unfused: activations that run as kernels of their own.
        channel_granule: channels are padded to a multiple of it, in memory and in arithmetic.
    """
    readers = Counter(name for layer in network.layers for name in layer.inputs)
    built: list[Kernel] = []
    maker: dict[str, int] = {}  # layer name -> index of the kernel that makes it
    for layer in network.layers:
        first = layer.inputs[0]
        if _is_epilogue(layer, unfused) and first in maker and readers[first] == 1:
            index = maker[first]
            built[index] = _joined(built[index], layer, channel_granule)
        else:
            index = len(built)
            built.append(_started(layer, network, channel_granule))
        maker[layer.name] = index
    return tuple(built)


def kernel_counts(
    network: Network, *, unfused: Collection[ActivationKind] = (), channel_granule: int = 1
) -> tuple[tuple[Kernel, int], ...]:
    """Kernels of equal work, nameless, with how often each runs: repeated blocks cost one look."""
    every = kernels(network, unfused=unfused, channel_granule=channel_granule)
    return tuple(Counter(replace(kernel, name="") for kernel in every).items())


def _is_epilogue(layer: Layer, unfused: Collection[ActivationKind]) -> bool:
    return isinstance(layer, Add) or (isinstance(layer, Activation) and layer.kind not in unfused)


def _started(layer: Layer, network: Network, granule: int) -> Kernel:
    return Kernel(
        name=layer.name,
        kind=_kind(layer),
        macs=round(layer.macs * _padding(layer, granule)),
        read_elements=sum(
            # The image comes as it is: only what a kernel wrote is padded.
            math.prod(network.shapes[name]) if name == INPUT else _elements(network.shapes[name], granule)
            for name in layer.inputs
        ),
        written_elements=_elements(layer.output, granule),
        weight_elements=sum(math.prod(shape) for shape in layer.parameters.values()),
    )


def _joined(kernel: Kernel, layer: Layer, granule: int) -> Kernel:
    """`kernel` with `layer` in its epilogue; a sum's other operand is read there."""
    extra = (len(layer.inputs) - 1) * _elements(layer.output, granule)
    return replace(kernel, read_elements=kernel.read_elements + extra)


def _padded(channels: int, granule: int) -> int:
    return -(-channels // granule) * granule


def _elements(shape: Shape, granule: int) -> int:
    channels, height, width = shape
    return _padded(channels, granule) * height * width


def _padding(layer: Layer, granule: int) -> float:
    """Multiply-accumulates done for each one asked: both channel counts are padded."""
    outputs = layer.output[0]
    factor = _padded(outputs, granule) / outputs
    if isinstance(layer, Linear):
        return factor * _padded(layer.in_features, granule) / layer.in_features
    if isinstance(layer, Convolution) and layer.groups == 1:
        return factor * _padded(layer.in_channels, granule) / layer.in_channels
    return factor


def _kind(layer: Layer) -> KernelKind:
    if isinstance(layer, Convolution):
        if layer.is_depthwise:
            return "depthwise"
        if layer.groups > 1:
            return "grouped"
        return "pointwise" if layer.is_pointwise else "dense"
    kinds: dict[type[Layer], KernelKind] = {
        Linear: "linear",
        GlobalAveragePool: "pool",
        MaxPool: "pool",
        ChannelScale: "scale",
        Activation: "activation",
    }
    return kinds.get(type(layer), "elementwise")
