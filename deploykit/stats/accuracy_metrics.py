"""Compare a model's logits with labels, or with the logits of its FP32 reference."""

import math
from dataclasses import dataclass
from statistics import median_low

import numpy as np
import numpy.typing as npt

from deploykit.stats.proportion import Proportion, tango_interval, wilson_interval
from deploykit.util.array_types import Labels

Logits = npt.NDArray[np.float32]
"""(n, classes)."""
Hits = npt.NDArray[np.bool_]
"""Whether each image is classified correctly, (n,)."""

_ROWS = 1024  # rows widened to float64 at a time, to limit memory


def topk_hits(logits: Logits, labels: Labels, k: int = 1) -> Hits:
    """Return whether each label is among the k largest logits.

    Of equal logits the first one is larger, and NaN is never among the largest.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    first = np.arange(logits.shape[1]) < labels[:, None]
    before = (logits > own) | ((logits == own) & first)
    result: Hits = (before.sum(axis=1) < k) & ~np.isnan(own[:, 0])
    return result


def topk(logits: Logits, labels: Labels, k: int) -> float:
    """Return the fraction of images whose label is among the k largest logits."""
    return float(topk_hits(logits, labels, k).mean())


def top1(logits: Logits, labels: Labels) -> float:
    """Return the fraction of images whose largest logit is the label's."""
    return topk(logits, labels, 1)


def matching_classes(logits: Logits, reference: Logits) -> Hits:
    """Return whether both models assign the same class to each image."""
    result: Hits = logits.argmax(axis=1) == reference.argmax(axis=1)
    return result


def agreement(logits: Logits, reference: Logits) -> float:
    """Return the fraction of images to which both models assign the same class."""
    return float(matching_classes(logits, reference).mean())


def sqnr_db(logits: Logits, reference: Logits) -> float:
    """Return the signal-to-quantization-noise ratio: 10 log10 of the reference's power over the difference's.

    It is infinite without a difference, and minus infinite if the reference is zero or a value is not finite.
    """
    signal = noise = 0.0
    for start in range(0, len(reference), _ROWS):
        wide = reference[start : start + _ROWS].astype(np.float64)
        signal += float(np.square(wide).sum())
        noise += float(np.square(wide - logits[start : start + _ROWS]).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def median_sqnr_db(logits: Logits, reference: Logits) -> float:
    """Return the median over images of the signal-to-quantization-noise ratio of one image's logits.

    A few images with huge logits dominate sqnr_db; here every image counts the same.
    """
    wide = reference.astype(np.float64)
    signal, noise = (np.square(part).sum(axis=1) for part in (wide, wide - logits))
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = 10 * np.log10(signal / noise)
    decibels[noise == 0] = math.inf
    return float(median_low(decibels.tolist()))


def hit_rate(hits: Hits) -> Proportion:
    """Return the fraction of hits with its interval."""
    return wilson_interval(int(hits.sum()), len(hits))


def paired_drop(reference: Hits, model: Hits) -> Proportion:
    """Return how much the fraction of hits drops from the reference to the model, on the same images.

    Only the images that exactly one of them classifies correctly count, as both saw the same images. Two
    separate intervals would overlap long after the difference is certain.
    """
    lost, won = int((reference & ~model).sum()), int((model & ~reference).sum())
    return tango_interval(lost, won, len(model))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All metrics of a model's logits, as fractions; None for those that can't be computed.

    Attributes:
        top1: Top-1 accuracy; needs labels.
        top5: Top-5 accuracy; needs labels and more than five classes.
        reference_top1: Top-1 accuracy of the FP32 reference.
        top1_drop: reference_top1 - top1, see paired_drop.
        agreement: Fraction of images with the same class as the reference.
        sqnr_db: Signal-to-quantization-noise ratio of the logits; infinite if they equal the reference's.
        median_sqnr_db: The same of one image, median over images.
    """

    top1: Proportion | None
    top5: Proportion | None
    reference_top1: Proportion | None
    top1_drop: Proportion | None
    agreement: Proportion | None
    sqnr_db: float | None
    median_sqnr_db: float | None


def score(logits: Logits, *, labels: Labels | None = None, reference: Logits | None = None) -> Scores:
    """Score logits, n at least 1, against labels, against the FP32 reference's logits, or both.

    Args:
        logits: (n, classes).
        labels: (n,).
        reference: Logits of the FP32 reference for the same images, (n, classes).
    """
    hits = reference_hits = top5_hits = None
    if labels is not None:
        hits = topk_hits(logits, labels)
        reference_hits = topk_hits(reference, labels) if reference is not None else None
        top5_hits = topk_hits(logits, labels, 5) if logits.shape[1] > 5 else None
    return Scores(
        top1=_hit_rate(hits),
        top5=_hit_rate(top5_hits),
        reference_top1=_hit_rate(reference_hits),
        top1_drop=paired_drop(reference_hits, hits)
        if hits is not None and reference_hits is not None
        else None,
        agreement=_hit_rate(matching_classes(logits, reference) if reference is not None else None),
        sqnr_db=sqnr_db(logits, reference) if reference is not None else None,
        median_sqnr_db=median_sqnr_db(logits, reference) if reference is not None else None,
    )


def _hit_rate(hits: Hits | None) -> Proportion | None:
    return None if hits is None else hit_rate(hits)
