"""What compiled layers read and write, by the shapes that TensorRT tells of their tensors.

Of a profile for several batch sizes the first dimension is -1. It counts images, but in a matrix rows, which
may be many an image: how many is told by the product that has the matrix, or by another layer that sees the
same tensor in more dimensions.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deploykit.engine.audit.audit import Traffic
from deploykit.engine.audit.work import Work

_ITEM_BYTES = (
    (re.compile(r"\b(u?int8|fp8|bool)\b", re.IGNORECASE), 1),
    (re.compile(r"\b(half|fp16|bfloat16)\b", re.IGNORECASE), 2),
    (re.compile(r"\b(float|fp32|int32)\b", re.IGNORECASE), 4),
    (re.compile(r"\bint64\b", re.IGNORECASE), 8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTensor:
    """As one layer sees it.

    Attributes:
        shape: -1 for what is not known before it runs.
        datatype: in the compiler's words.
    """

    name: str
    shape: tuple[int, ...]
    datatype: str

    @property
    def item_bytes(self) -> int | None:
        return next((size for words, size in _ITEM_BYTES if words.search(self.datatype)), None)

    @property
    def is_matrix(self) -> bool:
        """Of as many rows as there are images, or of many for each."""
        return len(self.shape) == 2 and self.shape[0] == -1 < self.shape[1]


LayerTensors = Sequence[LayerTensor]
"""All that a layer reads and writes, weights among it."""


def layer_traffic(
    layers: Sequence[LayerTensors | None], products: Sequence[Sequence[Work]], answers: frozenset[str]
) -> list[Traffic | None]:
    """What each layer reads and writes; None where that can't be told.

    Args:
        layers: of one profile; None for what the compiler doesn't say.
        products: what each of them computes.
        answers: names of what the engine gives, a row an image.
    """
    elements: dict[str, int] = {}
    for tensors, work in zip(layers, products, strict=True):
        elements.update(_elements(tensors or (), work, answers))
    return [None if tensors is None else _traffic(tensors, elements) for tensors in layers]


def _elements(
    tensors: LayerTensors, work: Sequence[Work], answers: frozenset[str]
) -> Iterator[tuple[str, int]]:
    """How many an image, of the tensors of which this layer tells."""
    multiplies = len(work) == 1 and all(tensor.is_matrix for tensor in tensors if -1 in tensor.shape)
    for tensor in tensors:
        first, *others = tensor.shape or (0,)
        if first == -1 and len(others) > 1 and min(others) > 0:
            yield tensor.name, math.prod(others)
        elif tensor.is_matrix and tensor.name in answers:
            yield tensor.name, others[0]
        elif tensor.is_matrix and multiplies:
            yield tensor.name, work[0].places * others[0]


def _traffic(tensors: LayerTensors, elements: Mapping[str, int]) -> Traffic | None:
    fixed = image = 0
    for tensor in {tensor.name: tensor for tensor in tensors}.values():  # what is read twice is near by then
        size = tensor.item_bytes
        if size is None or (-1 in tensor.shape and tensor.name not in elements):
            return None
        if -1 in tensor.shape:
            image += size * elements[tensor.name]
        else:
            fixed += size * math.prod(tensor.shape)
    return Traffic(fixed_bytes=fixed, image_bytes=image)
