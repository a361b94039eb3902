"""How well one model's outputs match labels, or another model's outputs: pure functions over logits."""

import math
from dataclasses import dataclass
from statistics import NormalDist, median_low

import numpy as np
import numpy.typing as npt

from deploykit.stats.estimate import CONFIDENCE
from deploykit.util.array_types import Labels

Logits = npt.NDArray[np.float32]
"""(n, classes)."""
Hits = npt.NDArray[np.bool_]
"""(n,), whether each image was classified rightly."""

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_ENOUGH = 30  # images; with fewer, anything could be guessing
_ROWS = 1024  # rows widened to float64 at a time, so that memory stays that of the logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A fraction, or a difference of two, with its 95 % confidence interval over such images."""

    value: float
    low: float
    high: float


def topk_hits(logits: Logits, labels: Labels, k: int = 1) -> Hits:
    """Whether the label is among the k largest logits; of equal ones the first is larger; NaN is least."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    first = np.arange(logits.shape[1]) < labels[:, None]
    before = (logits > own) | ((logits == own) & first)
    result: Hits = (before.sum(axis=1) < k) & ~np.isnan(own[:, 0])
    return result


def topk(logits: Logits, labels: Labels, k: int) -> float:
    """Fraction of images whose label is among the k largest logits."""
    return float(topk_hits(logits, labels, k).mean())


def top1(logits: Logits, labels: Labels) -> float:
    """Fraction of images whose largest logit is their label's."""
    return topk(logits, labels, 1)


def matching_classes(logits: Logits, reference: Logits) -> Hits:
    """Whether both give the image the same class."""
    result: Hits = logits.argmax(axis=1) == reference.argmax(axis=1)
    return result


def agreement(logits: Logits, reference: Logits) -> float:
    """Fraction of images on which both give the same class."""
    return float(matching_classes(logits, reference).mean())


def sqnr_db(logits: Logits, reference: Logits) -> float:
    """Signal to quantization noise ratio: 10 log10 of the reference's power over the difference's.

    Infinite where there is no difference; minus infinite where there is nothing else, or one is not finite.
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
    """Signal to quantization noise ratio of one image's logits: the median over images.

    A few images of huge logits decide sqnr_db; here they count as any other.
    """
    wide = reference.astype(np.float64)
    signal, noise = (np.square(part).sum(axis=1) for part in (wide, wide - logits))
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = 10 * np.log10(signal / noise)
    decibels[noise == 0] = math.inf
    return float(median_low(decibels.tolist()))


def hit_rate(of: Hits) -> Proportion:
    """The fraction that is true, with its interval."""
    return wilson_interval(int(of.sum()), len(of))


def is_within_chance(top1: Proportion, *, images: int, classes: int) -> bool:
    """Whether so much top-1 on so many images is within chance for a model that knows nothing."""
    return images >= _ENOUGH and top1.low <= 1 / classes


def wilson_interval(successes: int, trials: int) -> Proportion:
    """A proportion with its score interval, sound for few trials and at 0 and 1.

    References:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
        Newcombe, "Two-sided confidence intervals for the single proportion: comparison of seven methods",
        Stat. Med. 17:857, 1998, method 3.
    """
    value, z2 = successes / trials, _Z**2
    centre = (successes + z2 / 2) / (trials + z2)
    half = _Z * math.sqrt(trials * value * (1 - value) + z2 / 4) / (trials + z2)
    return Proportion(value=value, low=max(0.0, centre - half), high=min(1.0, centre + half))


def paired_drop(reference: Hits, model: Hits) -> Proportion:
    """By how much the fraction of hits falls from the reference to the model, on the same images.

    Both saw the same images, so only those count that one gets right and the other wrong; two separate
    intervals would overlap long after the difference is certain.
    """
    lost, won = int((reference & ~model).sum()), int((model & ~reference).sum())
    return tango_interval(lost, won, len(model))


def tango_interval(lost: int, won: int, pairs: int) -> Proportion:
    """(lost - won) / pairs with its score interval, which leaves out 0 just where McNemar's test says so.

    Args:
        lost: pairs of which the first alone is a success.
        won: pairs of which the second alone is.

    References:
        Tango, "Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design", Stat. Med. 17:891, 1998.
        Compared with others in Fagerland, Lydersen and Laake, "Recommended tests and confidence intervals for
        paired binomial proportions", Stat. Med. 33:2850, 2014.
    """
    value = (lost - won) / pairs

    def limit(end: float) -> float:
        inside, outside = value, end
        for _ in range(60):  # halvings of the range: to the last bit
            middle = (inside + outside) / 2
            if _is_plausible(middle, lost, won, pairs):
                inside = middle
            else:
                outside = middle
        return outside

    return Proportion(value=value, low=limit(-1.0), high=limit(1.0))


def _is_plausible(difference: float, lost: int, won: int, pairs: int) -> bool:
    """Whether Tango's score test at this difference, stays under the critical value."""
    # The most likely share of `won`, were the difference this: the larger root of a quadratic.
    linear = (2 * pairs - lost + won) * difference - lost - won
    constant = -won * difference * (1 - difference)
    share_won = (math.sqrt(max(0.0, linear**2 - 8 * pairs * constant)) - linear) / (4 * pairs)
    variance = pairs * (2 * share_won + difference * (1 - difference))
    return abs(lost - won - pairs * difference) <= _Z * math.sqrt(max(0.0, variance))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Everything that can be said of a model's logits, in fractions; None for what can't.

    Attributes:
        top1, top5: where there are labels; top5 where there are more than five classes.
        reference_top1: the FP32 model's.
        top1_drop: reference_top1 - top1, see paired_drop.
        agreement: same class as the FP32 model's.
        sqnr_db: of the logits against the FP32 model's; infinite where they are equal.
        median_sqnr_db: of one image's, the median over images.
    """

    top1: Proportion | None
    top5: Proportion | None
    reference_top1: Proportion | None
    top1_drop: Proportion | None
    agreement: Proportion | None
    sqnr_db: float | None
    median_sqnr_db: float | None


def score(logits: Logits, *, labels: Labels | None = None, reference: Logits | None = None) -> Scores:
    """Scores of logits, n at least 1, against labels, the FP32 model's logits on the same images, or both."""
    right = rightly = top5 = None
    if labels is not None:
        right = topk_hits(logits, labels)
        rightly = topk_hits(reference, labels) if reference is not None else None
        top5 = topk_hits(logits, labels, 5) if logits.shape[1] > 5 else None
    return Scores(
        top1=_hit_rate(right),
        top5=_hit_rate(top5),
        reference_top1=_hit_rate(rightly),
        top1_drop=paired_drop(rightly, right) if right is not None and rightly is not None else None,
        agreement=_hit_rate(matching_classes(logits, reference) if reference is not None else None),
        sqnr_db=sqnr_db(logits, reference) if reference is not None else None,
        median_sqnr_db=median_sqnr_db(logits, reference) if reference is not None else None,
    )


def _hit_rate(of: Hits | None) -> Proportion | None:
    return None if of is None else hit_rate(of)
