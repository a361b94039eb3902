"""List the kernels that TensorRT launches for a network, each with its work and its traffic.

References:
    NVIDIA TensorRT Developer Guide, "Layer Fusion": a convolution runs its batch norm, its activation and the
    residual sum after it in its epilogue.
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
    """One kernel launch; its figures are per image, with channels padded as they are stored.

    Attributes:
        name: Name of its first layer.
        kind: `dense` (convolution over a window), `pointwise` (1x1), `grouped`, `depthwise`, `linear`,
            `pool`, `scale` (squeeze-excite's product), `activation` (not fused), `elementwise`.
        macs: Multiply-accumulates.
        read_elements: Activation elements read; a residual sum reads its shortcut as well.
        written_elements: Activation elements written.
        weight_elements: Parameters read, once per batch.
    """

    name: str
    kind: KernelKind
    macs: int
    read_elements: int
    written_elements: int
    weight_elements: int


def list_kernels(
    network: Network, *, unfused: Collection[ActivationKind] = (), channel_granule: int = 1
) -> tuple[Kernel, ...]:
    """Return every kernel of a network, in order of execution.

    An activation or a residual sum joins the kernel that makes its first input, unless another layer reads
    that input as well.

    Args:
        network: The network to run.
        unfused: Activations that run as separate kernels.
        channel_granule: Channels are padded to a multiple of it, in memory and in arithmetic.
    """
    readers = Counter(name for layer in network.layers for name in layer.inputs)
    built: list[Kernel] = []
    maker: dict[str, int] = {}  # layer name -> index of the kernel that computes it
    for layer in network.layers:
        first = layer.inputs[0]
        if _is_epilogue(layer, unfused) and first in maker and readers[first] == 1:
            index = maker[first]
            built[index] = _fuse(built[index], layer, channel_granule)
        else:
            index = len(built)
            built.append(_start_kernel(layer, network, channel_granule))
        maker[layer.name] = index
    return tuple(built)


def count_kernels(
    network: Network, *, unfused: Collection[ActivationKind] = (), channel_granule: int = 1
) -> tuple[tuple[Kernel, int], ...]:
    """Return the distinct kernels without names, and how often each runs; repeated blocks are listed once."""
    kernels = list_kernels(network, unfused=unfused, channel_granule=channel_granule)
    return tuple(Counter(replace(kernel, name="") for kernel in kernels).items())


def _is_epilogue(layer: Layer, unfused: Collection[ActivationKind]) -> bool:
    return isinstance(layer, Add) or (isinstance(layer, Activation) and layer.kind not in unfused)


def _start_kernel(layer: Layer, network: Network, granule: int) -> Kernel:
    return Kernel(
        name=layer.name,
        kind=_kind(layer),
        macs=round(layer.macs * _padding_factor(layer, granule)),
        read_elements=sum(
            # The image is not padded: only what a kernel writes is.
            math.prod(network.shapes[name])
            if name == INPUT
            else _count_elements(network.shapes[name], granule)
            for name in layer.inputs
        ),
        written_elements=_count_elements(layer.output, granule),
        weight_elements=sum(math.prod(shape) for shape in layer.parameters.values()),
    )


def _fuse(kernel: Kernel, layer: Layer, granule: int) -> Kernel:
    """Return the kernel with a layer in its epilogue, where a sum reads its other operand."""
    extra = (len(layer.inputs) - 1) * _count_elements(layer.output, granule)
    return replace(kernel, read_elements=kernel.read_elements + extra)


def _pad(channels: int, granule: int) -> int:
    return -(-channels // granule) * granule


def _count_elements(shape: Shape, granule: int) -> int:
    channels, height, width = shape
    return _pad(channels, granule) * height * width


def _padding_factor(layer: Layer, granule: int) -> float:
    """Return the multiply-accumulates done per useful one: both channel counts are padded."""
    outputs = layer.output[0]
    factor = _pad(outputs, granule) / outputs
    if isinstance(layer, Linear):
        return factor * _pad(layer.in_features, granule) / layer.in_features
    if isinstance(layer, Convolution) and layer.groups == 1:
        return factor * _pad(layer.in_channels, granule) / layer.in_channels
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
