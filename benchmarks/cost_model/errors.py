"""Measure how far to trust a fit: its errors on rows it did not see, and the intervals they give."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from cost_model.fit import fit_parameters, log_ratios
from cost_model.published import PublishedLatency, keep_tensorrt
from deploykit.planning.cost_model.fitted_model import INTERVAL_CONFIDENCE

RowError = tuple[PublishedLatency, float]
"""A row, and log(published / predicted) under a fit that did not see it."""


def held_out_errors(
    rows: Sequence[PublishedLatency],
    get_group: Callable[[PublishedLatency], object],
    is_kept: Callable[[PublishedLatency, PublishedLatency], bool] = lambda row, left_out: True,
) -> tuple[RowError, ...]:
    """Return TensorRT's rows with log ratios under fits without their group and without rows not kept."""
    pairs: list[RowError] = []
    for group in dict.fromkeys(map(get_group, keep_tensorrt(rows))):
        inside = [row for row in keep_tensorrt(rows) if get_group(row) == group]
        others = [row for row in rows if get_group(row) != group and is_kept(row, inside[0])]
        pairs += zip(inside, log_ratios(inside, fit_parameters(others)).tolist(), strict=True)
    return tuple(pairs)


def errors_without_gpu_and_design(rows: Sequence[PublishedLatency]) -> tuple[RowError, ...]:
    """Return each row under a fit that saw neither its GPU nor any size of its design."""
    return held_out_errors(
        rows,
        lambda row: (row.gpu, row.design),
        lambda row, left_out: row.gpu != left_out.gpu and row.design != left_out.design,
    )


def extrapolation_errors(
    rows: Sequence[PublishedLatency],
    quantity: Callable[[PublishedLatency], float],
    limit: float,
    *,
    above: bool = True,
) -> tuple[RowError, ...]:
    """Return the rows beyond a limit under a fit to the rows up to it."""

    def is_beyond(row: PublishedLatency) -> bool:
        return quantity(row) > limit if above else quantity(row) < limit

    beyond = [row for row in keep_tensorrt(rows) if is_beyond(row)]
    parameters = fit_parameters([row for row in rows if not is_beyond(row) and row.runtime == "tensorrt"])
    return tuple(zip(beyond, log_ratios(beyond, parameters).tolist(), strict=True))


def compute_interval(pairs: Iterable[RowError]) -> tuple[float, float]:
    """Return factors of a prediction that enclose the truth with INTERVAL_CONFIDENCE, with equal tails.

    One network on one GPU at one precision counts once, however many batches were published.
    """
    pairs = sorted(pairs, key=lambda pair: pair[1])
    cases = Counter(map(_case, (row for row, _ in pairs)))
    weights = np.array([1 / cases[_case(row)] for row, _ in pairs])
    ratios = np.array([ratio for _, ratio in pairs])
    below = np.cumsum(weights) / np.sum(weights)
    tail = (1 - INTERVAL_CONFIDENCE) / 2
    low = ratios[np.searchsorted(below, tail)]
    high = ratios[np.searchsorted(below, 1 - tail - 1e-9)]  # minus the sum's rounding error
    return math.floor(math.exp(low) * 1000) / 1000, math.ceil(math.exp(high) * 1000) / 1000


def measure_coverage(pairs: Iterable[RowError], factors: tuple[float, float]) -> float:
    """Return the share of rows whose truth lies in the interval."""
    return float(np.mean([factors[0] <= math.exp(ratio) <= factors[1] for _, ratio in pairs]))


def coverage_by_other_gpus(pairs: Iterable[RowError]) -> dict[str, float]:
    """Return the share of each GPU's rows inside the interval that the other GPUs' rows give."""
    pairs = tuple(pairs)
    return {
        gpu: measure_coverage(
            (pair for pair in pairs if pair[0].gpu == gpu),
            compute_interval(pair for pair in pairs if pair[0].gpu != gpu),
        )
        for gpu in dict.fromkeys(row.gpu for row, _ in pairs)
    }


def total_coverage_by_other_gpus(pairs: Iterable[RowError]) -> float:
    """Return the share of all rows inside the interval that GPUs other than theirs give."""
    pairs = tuple(pairs)
    shares = coverage_by_other_gpus(pairs)
    return float(np.mean([shares[row.gpu] for row, _ in pairs]))


def in_sample_errors(rows: Sequence[PublishedLatency]) -> tuple[RowError, ...]:
    """Return each row under the fit to all rows."""
    published = keep_tensorrt(rows)
    return tuple(zip(published, log_ratios(published, fit_parameters(rows)).tolist(), strict=True))


def mean_absolute_error(pairs: Iterable[RowError]) -> float:
    """Return the mean absolute error of the prediction, as a fraction of the published latency."""
    return float(np.mean([abs(math.exp(-ratio) - 1) for _, ratio in pairs]))


def by_gpu(row: PublishedLatency) -> str:
    """Group rows by GPU."""
    return row.gpu


def by_gpu_and_network(row: PublishedLatency) -> tuple[str, str, str]:
    """Group rows by GPU and network."""
    return row.gpu, row.family, row.network


def _case(row: PublishedLatency) -> tuple[str, str, str, str]:
    return row.gpu, row.family, row.network, row.precision


def keep_efficientnets(pairs: Iterable[RowError]) -> tuple[RowError, ...]:
    """Return the rows of EfficientNets."""
    return tuple(pair for pair in pairs if pair[0].family == "efficientnet")
