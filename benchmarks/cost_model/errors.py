"""How far to trust a fit: its errors where it never looked, and the intervals these give."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from cost_model.fit import fit, log_ratios
from cost_model.published import Row, of_tensorrt
from deploykit.planning.cost_model.fitted_model import INTERVAL_CONFIDENCE

HeldOut = tuple[Row, float]
"""A row and log(published / predicted) under a fit that never saw it."""


def held_out(
    rows: Sequence[Row],
    group_of: Callable[[Row], object],
    is_kept: Callable[[Row, Row], bool] = lambda row, left_out: True,
) -> tuple[HeldOut, ...]:
    """TensorRT's rows with log ratios under fits that saw nothing of their group, nor what isn't kept."""
    pairs: list[HeldOut] = []
    for group in dict.fromkeys(map(group_of, of_tensorrt(rows))):
        inside = [row for row in of_tensorrt(rows) if group_of(row) == group]
        others = [row for row in rows if group_of(row) != group and is_kept(row, inside[0])]
        pairs += zip(inside, log_ratios(inside, fit(others)).tolist(), strict=True)
    return tuple(pairs)


def left_out_wholly(rows: Sequence[Row]) -> tuple[HeldOut, ...]:
    """Each row under a fit that saw neither its GPU nor any size of its design."""
    return held_out(
        rows,
        lambda row: (row.gpu, row.design),
        lambda row, left_out: row.gpu != left_out.gpu and row.design != left_out.design,
    )


def extrapolated(
    rows: Sequence[Row], quantity: Callable[[Row], float], limit: float, *, above: bool = True
) -> tuple[HeldOut, ...]:
    """Rows beyond a limit under a fit to those up to it."""

    def is_beyond(row: Row) -> bool:
        return quantity(row) > limit if above else quantity(row) < limit

    beyond = [row for row in of_tensorrt(rows) if is_beyond(row)]
    found = fit([row for row in rows if not is_beyond(row) and row.runtime == "tensorrt"])
    return tuple(zip(beyond, log_ratios(beyond, found).tolist(), strict=True))


def interval(pairs: Iterable[HeldOut]) -> tuple[float, float]:
    """Factors of a prediction between which the truth falls with probability CONFIDENCE, equal tails.

    One network on one GPU at one precision counts once, however many batches were published of it.
    """
    pairs = sorted(pairs, key=lambda pair: pair[1])
    cases = Counter(map(_case, (row for row, _ in pairs)))
    weights = np.array([1 / cases[_case(row)] for row, _ in pairs])
    ratios = np.array([ratio for _, ratio in pairs])
    below = np.cumsum(weights) / np.sum(weights)
    tail = (1 - INTERVAL_CONFIDENCE) / 2
    low = ratios[np.searchsorted(below, tail)]
    high = ratios[np.searchsorted(below, 1 - tail - 1e-9)]  # less the sum's rounding
    return math.floor(math.exp(low) * 1000) / 1000, math.ceil(math.exp(high) * 1000) / 1000


def coverage(pairs: Iterable[HeldOut], factors: tuple[float, float]) -> float:
    """Share of rows whose truth is inside the interval."""
    return float(np.mean([factors[0] <= math.exp(ratio) <= factors[1] for _, ratio in pairs]))


def coverage_by_others(pairs: Iterable[HeldOut]) -> dict[str, float]:
    """Share of each GPU's rows inside the interval that the other GPUs' rows alone give."""
    pairs = tuple(pairs)
    return {
        gpu: coverage(
            (pair for pair in pairs if pair[0].gpu == gpu),
            interval(pair for pair in pairs if pair[0].gpu != gpu),
        )
        for gpu in dict.fromkeys(row.gpu for row, _ in pairs)
    }


def coverage_of_all_by_others(pairs: Iterable[HeldOut]) -> float:
    """Share of all rows inside the interval that the GPUs other than theirs give."""
    pairs = tuple(pairs)
    shares = coverage_by_others(pairs)
    return float(np.mean([shares[row.gpu] for row, _ in pairs]))


def in_sample(rows: Sequence[Row]) -> tuple[HeldOut, ...]:
    """Each row under the fit to all of them."""
    published = of_tensorrt(rows)
    return tuple(zip(published, log_ratios(published, fit(rows)).tolist(), strict=True))


def mean_error(pairs: Iterable[HeldOut]) -> float:
    """Mean absolute error of the prediction, as a fraction of what was published."""
    return float(np.mean([abs(math.exp(-ratio) - 1) for _, ratio in pairs]))


def by_gpu(row: Row) -> str:
    """Groups by GPU."""
    return row.gpu


def by_gpu_and_network(row: Row) -> tuple[str, str, str]:
    """Groups by network, apart on each GPU."""
    return row.gpu, row.family, row.network


def _case(row: Row) -> tuple[str, str, str, str]:
    return row.gpu, row.family, row.network, row.precision


def efficientnets(pairs: Iterable[HeldOut]) -> tuple[HeldOut, ...]:
    """Those of EfficientNets."""
    return tuple(pair for pair in pairs if pair[0].family == "efficientnet")
