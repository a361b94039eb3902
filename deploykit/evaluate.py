"""How well one model's outputs match labels, or another's outputs."""

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
"""(n, classes)."""


def top1(logits: Logits, labels: npt.NDArray[np.int64]) -> float:
    """Fraction of images whose largest logit is their label's."""
    return float((logits.argmax(axis=1) == labels).mean())


def agreement(logits: Logits, reference: Logits) -> float:
    """Fraction of images on which both give the same class."""
    return float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean())


def sqnr_db(logits: Logits, reference: Logits) -> float:
    """Signal to quantization noise ratio: 10 log10 of the reference's power over the difference's."""
    signal = np.square(reference, dtype=np.float64).sum()
    noise = np.square(reference.astype(np.float64) - logits).sum()
    return float(np.inf if noise == 0 else 10 * np.log10(signal / noise))
