"""Bytes that compiled layers read and write, from the tensor shapes that TensorRT reports.

In a profile for several batch sizes the first dimension is -1. It counts images, except in a matrix, where it
counts rows. An image may have many rows. Their number follows from the product that reads the matrix, or from
another layer that sees the same tensor with more dimensions.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deploykit.engine.audit.audit import Traffic
from deploykit.onnx_tools.products import Product

_ITEM_BYTES = (
    (re.compile(r"\b(u?int8|fp8|bool)\b", re.IGNORECASE), 1),
    (re.compile(r"\b(half|fp16|bfloat16)\b", re.IGNORECASE), 2),
    (re.compile(r"\b(float|fp32|int32)\b", re.IGNORECASE), 4),
    (re.compile(r"\bint64\b", re.IGNORECASE), 8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTensor:
    """A tensor as one layer sees it.

    Attributes:
        shape: -1 for dimensions that are unknown before execution.
        datatype: As the compiler writes it.
    """

    name: str
    shape: tuple[int, ...]
    datatype: str

    @property
    def item_bytes(self) -> int | None:
        """Bytes of an element; None for an unknown type."""
        return next((size for words, size in _ITEM_BYTES if words.search(self.datatype)), None)

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix with one or more rows per image."""
        return len(self.shape) == 2 and self.shape[0] == -1 < self.shape[1]


LayerTensors = Sequence[LayerTensor]
"""Everything that a layer reads and writes, including weights."""


def layer_traffic(
    layers: Sequence[LayerTensors | None], products: Sequence[Sequence[Product]], outputs: frozenset[str]
) -> list[Traffic | None]:
    """Return the bytes that each layer reads and writes; None if they are unknown.

    Args:
        layers: The tensors of each layer of one profile; None if the compiler does not report them.
        products: What each layer computes.
        outputs: Names of the engine's outputs, which have one row per image.
    """
    elements: dict[str, int] = {}
    for tensors, work in zip(layers, products, strict=True):
        elements.update(_elements(tensors or (), work, outputs))
    return [None if tensors is None else _traffic(tensors, elements) for tensors in layers]


def _elements(
    tensors: LayerTensors, work: Sequence[Product], outputs: frozenset[str]
) -> Iterator[tuple[str, int]]:
    """Yield the elements per image of the tensors that this layer determines."""
    multiplies = len(work) == 1 and all(tensor.is_matrix for tensor in tensors if -1 in tensor.shape)
    for tensor in tensors:
        first, *others = tensor.shape or (0,)
        if first == -1 and len(others) > 1 and min(others) > 0:
            yield tensor.name, math.prod(others)
        elif tensor.is_matrix and tensor.name in outputs:
            yield tensor.name, others[0]
        elif tensor.is_matrix and multiplies:
            yield tensor.name, work[0].positions * others[0]


def _traffic(tensors: LayerTensors, elements: Mapping[str, int]) -> Traffic | None:
    fixed = image = 0
    for tensor in {tensor.name: tensor for tensor in tensors}.values():  # a second read comes from the cache
        size = tensor.item_bytes
        if size is None or (-1 in tensor.shape and tensor.name not in elements):
            return None
        if -1 in tensor.shape:
            image += size * elements[tensor.name]
        else:
            fixed += size * math.prod(tensor.shape)
    return Traffic(fixed_bytes=fixed, image_bytes=image)
