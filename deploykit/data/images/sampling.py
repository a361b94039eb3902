"""Choose which images to use when there are more than requested."""

import hashlib
import heapq
from collections.abc import Sequence

import numpy as np

from deploykit.util.array_types import Indices, Labels


def sample_evenly(count: int, limit: int, labels: Labels | None = None) -> Indices:
    """Return at most limit of count indices, evenly spaced, so that a sorted folder is covered throughout.

    Args:
        count: Number of images.
        limit: Maximum number of indices.
        labels: (count,). Every class gets at least one image if limit allows it.
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
    """Return at most limit random indices. A seed gives the same sample on every machine and version.

    The sample consists of the images with the smallest SHA-256 of `seed/name`. It does not depend on any
    random generator, and adding a file changes at most one image of the sample.

    Args:
        names: The name of each image.
        limit: Maximum number of indices.
        seed: At least 0.
    """

    def rank(index: int) -> bytes:
        name = names[index].encode(errors="surrogateescape")
        return hashlib.sha256(b"%d/%b" % (seed, name)).digest()

    return np.array(sorted(heapq.nsmallest(limit, range(len(names)), key=rank)), np.int64)
