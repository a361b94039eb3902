"""A network's parameters and batch-norm statistics as arrays, under timm's names."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deploykit.util.array_types import Float32Array

StateDict = Mapping[str, Float32Array]
"""Parameters and batch-norm statistics by name."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Parameters and batch-norm statistics by timm name, and where they came from.

    Attributes:
        state: The arrays by name.
        origin: `random`, or the checkpoint's file name.
    """

    state: StateDict
    origin: str

    @property
    def is_random(self) -> bool:
        """Whether the weights were made by random_weights rather than trained."""
        return self.origin == "random"

    @property
    def sha256(self) -> str:
        """Digest of names, shapes and values; equal weights have equal digests."""
        digest = hashlib.sha256()
        for name in sorted(self.state):
            array = self.state[name]
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
