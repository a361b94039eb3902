"""Which images are drawn where there are more than are wanted."""

import hashlib
import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deploykit.util.array_types import Labels

Indices = npt.NDArray[np.int64]
"""Ascending."""


def sample_evenly(count: int, limit: int, labels: Labels | None = None) -> Indices:
    """At most limit of count images at even distances, so that a sorted folder is drawn from all over.

    Args:
        labels: (count,); no class is left out where limit allows one of each.
    """
    take = min(limit, count)
    drawn = np.arange(take) * count // max(take, 1)
    if labels is None:
        return drawn
    classes = np.unique(labels)
    if len(classes) > take:
        return drawn
    for missing in np.setdiff1d(classes, labels[drawn]):
        values, counts = np.unique(labels[drawn], return_counts=True)
        commonest = np.flatnonzero(labels[drawn] == values[counts.argmax()])
        drawn[commonest[-1]] = np.flatnonzero(labels == missing)[0]
    return np.sort(drawn)


def sample_randomly(names: Sequence[str], limit: int, seed: int) -> Indices:
    """At most limit of the images at random, the same ones for a seed everywhere and always.

    Those whose SHA-256 of `seed/name` is smallest: no random generator's version matters, and a file
    more changes one image of the sample at most.
    """

    def rank(index: int) -> bytes:
        name = names[index].encode(errors="surrogateescape")
        return hashlib.sha256(b"%d/%b" % (seed, name)).digest()

    return np.array(sorted(heapq.nsmallest(limit, range(len(names)), key=rank)), np.int64)
