"""Fits deploykit's cost model to published TensorRT latencies and says how far to trust it.

    python benchmarks/fit_cost_model.py

Reads published_latency.csv beside it, prints the parameters and the errors, and writes
deploykit/predict/cost_model.json. The same input gives the same bytes.

The fit is least squares on log(predicted / published), with a weak log-normal prior a parameter:
where a left-out GPU leaves a parameter undetermined, the prior keeps it physical.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploykit.architecture.efficientnet import efficientnet
from deploykit.architecture.graph import ActivationKind, Network
from deploykit.architecture.mobilenet_v2 import mobilenet_v2
from deploykit.architecture.resnet import resnet
from deploykit.predict.cost_model import CONFIDENCE, Parameters, Precision, batch_ms, sustained_rates
from deploykit.predict.gpus import find_gpu
from deploykit.predict.kernels import Kernel, kernel_counts
from deploykit.scaling import BASE, scale_for

HERE = Path(__file__).parent
PUBLISHED_CSV = HERE / "published_latency.csv"
MODEL_JSON = HERE.parent / "deploykit" / "predict" / "cost_model.json"

PRECISION: dict[str, Precision] = {"fp16": "fp16", "int8": "int8"}
CONVERGED_LOG_STEP = 1e-7  # far below the four digits kept
ERROR_SCALE = 0.1  # of a good prediction's log; weighs the data against the priors
PRIOR_CENTRE = Parameters(
    tensor_fraction=0.6,
    cuda_fraction=0.5,
    depthwise_fraction=0.2,
    bandwidth_fraction=0.75,
    launch_us=3.5,
    outputs_per_sm=1000.0,
    # A T4 told to run at 1590 MHz falls to about 900 MHz under sustained load: (1.10 / 2.45) ** 0.71.
    # Source: github.com/mlcommons/inference_results_v0.5, issue 20.
    throttle_exponent=0.71,
)
PRIOR_LOG_SPREAD = Parameters(
    tensor_fraction=0.2,
    cuda_fraction=0.3,
    depthwise_fraction=0.7,
    bandwidth_fraction=0.15,
    launch_us=0.5,
    outputs_per_sm=0.5,
    throttle_exponent=0.2,
)

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published latency."""

    gpu: str
    family: str
    network: str
    precision: Precision
    batch: int
    latency_ms: float


HeldOut = tuple[Row, float]
"""A row and log(published / predicted) under a fit that never saw it."""


def read_rows(path: Path = PUBLISHED_CSV) -> tuple[Row, ...]:
    """The published figures, in the file's order."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(
            Row(
                gpu=line["gpu"],
                family=line["family"],
                network=line["network"],
                precision=PRECISION[line["precision"]],
                batch=int(line["batch"]),
                latency_ms=float(line["latency_ms"]),
            )
            for line in csv.DictReader(file)
        )


def network_of(row: Row) -> Network:
    """The network a figure is of."""
    if row.family == "efficientnet":
        return efficientnet(scale_for(int(row.network.removeprefix("B"))))
    return (
        resnet(int(row.network))
        if row.family == "resnet"
        else mobilenet_v2(replace(BASE, width=float(row.network)))
    )


@cache
def _counts(row: Row, unfused: tuple[ActivationKind, ...], granule: int) -> tuple[tuple[Kernel, int], ...]:
    return kernel_counts(network_of(row), unfused=unfused, channel_granule=granule)


def predicted_ms(row: Row, parameters: Parameters) -> float:
    """What the model says where the row has what was published."""
    rates = sustained_rates(find_gpu(row.gpu), row.precision, parameters)
    return batch_ms(_counts(row, rates.unfused, rates.channel_granule), rates, row.batch)


def log_ratios(rows: Iterable[Row], parameters: Parameters) -> Vector:
    """log(published / predicted): positive where the prediction is too fast."""
    return np.array([math.log(row.latency_ms / predicted_ms(row, parameters)) for row in rows])


def fit(rows: Sequence[Row], *, steps: int = 40) -> Parameters:
    """The most plausible parameters: Levenberg-Marquardt on their logarithms."""
    centre, spread = np.log(_vector(PRIOR_CENTRE)), _vector(PRIOR_LOG_SPREAD)

    def residuals(x: Vector) -> Vector:
        return np.concatenate([log_ratios(rows, _parameters(x)) / ERROR_SCALE, (x - centre) / spread])

    return _parameters(_least_squares(residuals, centre, steps))


def held_out(rows: Sequence[Row], group_of: Callable[[Row], object]) -> tuple[HeldOut, ...]:
    """Each row with its log ratio under the fit that saw nothing of its group."""
    pairs: list[HeldOut] = []
    for group in dict.fromkeys(map(group_of, rows)):
        inside = [row for row in rows if group_of(row) == group]
        parameters = fit([row for row in rows if group_of(row) != group])
        pairs += zip(inside, log_ratios(inside, parameters).tolist(), strict=True)
    return tuple(pairs)


def interval(pairs: Iterable[HeldOut]) -> tuple[float, float]:
    """Factors of a prediction between which the truth falls with probability CONFIDENCE, equal tails.

    One network on one GPU at one precision counts once, however many batches were published of it.
    """
    pairs = sorted(pairs, key=lambda pair: pair[1])
    cases = Counter(map(_case, (row for row, _ in pairs)))
    weights = np.array([1 / cases[_case(row)] for row, _ in pairs])
    ratios = np.array([ratio for _, ratio in pairs])
    below = np.cumsum(weights) / np.sum(weights)
    tail = (1 - CONFIDENCE) / 2
    low = ratios[np.searchsorted(below, tail)]
    high = ratios[np.searchsorted(below, 1 - tail - 1e-9)]  # less the sum's rounding
    return math.floor(math.exp(low) * 1000) / 1000, math.ceil(math.exp(high) * 1000) / 1000


def widest_interval(pairs: Iterable[HeldOut]) -> tuple[float, float]:
    """The widest of the GPUs' intervals, end by end: the next GPU may be as unlike as the worst of these."""
    pairs = tuple(pairs)
    each = [interval(p for p in pairs if p[0].gpu == gpu) for gpu in {row.gpu for row, _ in pairs}]
    return min(low for low, _ in each), max(high for _, high in each)


def coverage(pairs: Iterable[HeldOut], factors: tuple[float, float]) -> float:
    """Share of rows whose truth is inside the interval."""
    return float(np.mean([factors[0] <= math.exp(ratio) <= factors[1] for _, ratio in pairs]))


def _least_squares(residuals: Callable[[Vector], Vector], x: Vector, steps: int) -> Vector:
    damping, now = 1e-2, residuals(x)
    for _ in range(steps):
        jacobian = _jacobian(residuals, x, now)
        normal = jacobian.T @ jacobian
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -jacobian.T @ now)
        then = residuals(x + step)
        if then @ then < now @ now:
            x, now, damping = x + step, then, damping / 5
        else:
            damping *= 5
        if np.max(np.abs(step)) < CONVERGED_LOG_STEP:
            break
    return x


def _jacobian(residuals: Callable[[Vector], Vector], x: Vector, now: Vector, width: float = 1e-5) -> Vector:
    columns = [(residuals(x + width * unit) - now) / width for unit in np.eye(len(x))]
    return np.stack(columns, axis=1)


def _vector(parameters: Parameters) -> Vector:
    return np.array([getattr(parameters, field.name) for field in fields(parameters)])


def _parameters(logs: Vector) -> Parameters:
    names = (field.name for field in fields(Parameters))
    return Parameters(**dict(zip(names, np.exp(logs).tolist(), strict=True)))


def rounded(parameters: Parameters) -> Parameters:
    """To four digits: more than the data know, few enough to come out the same everywhere."""
    return Parameters(**{name: float(f"{value:.4g}") for name, value in asdict(parameters).items()})


def by_gpu(row: Row) -> str:
    """Groups by GPU."""
    return row.gpu


def by_family(row: Row) -> str:
    """Groups by family of networks."""
    return row.family


def by_gpu_and_network(row: Row) -> tuple[str, str, str]:
    """Groups by network, apart on each GPU."""
    return row.gpu, row.family, row.network


def _case(row: Row) -> tuple[str, str, str, str]:
    return row.gpu, row.family, row.network, row.precision


def efficientnets(pairs: Iterable[HeldOut]) -> tuple[HeldOut, ...]:
    """Those of EfficientNets."""
    return tuple(pair for pair in pairs if pair[0].family == "efficientnet")


def model_json(rows: Sequence[Row]) -> str:
    """What cost_model.json holds."""
    measured = sorted({row.gpu for row in rows if row.family == "efficientnet"})
    model = {
        "parameters": asdict(rounded(fit(rows))),
        "measured": measured,
        "interval": {
            "elsewhere": widest_interval(held_out(rows, by_gpu)),
            "measured": interval(efficientnets(held_out(rows, by_gpu_and_network))),
        },
    }
    return json.dumps(model, indent=2) + "\n"


def main() -> None:
    """Fits, prints, writes."""
    rows = read_rows()
    text = model_json(rows)
    MODEL_JSON.write_text(text, encoding="utf-8")
    print(text)
    in_sample = tuple(zip(rows, log_ratios(rows, fit(rows)).tolist(), strict=True))
    left_gpu, left_network = held_out(rows, by_gpu), held_out(rows, by_gpu_and_network)
    print("published / predicted      rows  geometric mean  rms log error  lowest  highest")
    for name, pairs in (
        ("in sample", in_sample),
        ("a GPU left out", left_gpu),
        ("a network on a GPU left out", left_network),
        ("a family left out", held_out(rows, by_family)),
    ):
        _print_errors(name, pairs)
    print("\ninterval                                       factors         rows inside")
    elsewhere, known = widest_interval(left_gpu), interval(efficientnets(left_network))
    _print_coverage("elsewhere, a GPU left out", left_gpu, elsewhere)
    for gpu in dict.fromkeys(map(by_gpu, rows)):
        mine = [pair for pair in left_gpu if pair[0].gpu == gpu]
        _print_coverage(f"  {gpu}", mine, elsewhere)
        _print_coverage("    interval from the other GPUs", mine, widest_interval(set(left_gpu) - set(mine)))
    _print_coverage("measured, EfficientNet left out", efficientnets(left_network), known)


def _print_errors(name: str, pairs: Iterable[HeldOut]) -> None:
    groups: dict[str, list[float]] = {}
    for row, ratio in pairs:
        for group in (name, f"  {row.gpu}, {row.family}"):
            groups.setdefault(group, []).append(ratio)
    for group, ratios in groups.items():
        mean, low, high = np.exp([np.mean(ratios), np.min(ratios), np.max(ratios)])
        rms = np.sqrt(np.mean(np.square(ratios)))
        print(f"{group:<28}{len(ratios):>3}{mean:>16.3f}{rms:>15.3f}{low:>8.2f}{high:>9.2f}")


def _print_coverage(name: str, pairs: Iterable[HeldOut], factors: tuple[float, float]) -> None:
    print(f"{name:<42}{factors[0]:>8.3f} to {factors[1]:.3f}{coverage(pairs, factors):>16.1%}")


if __name__ == "__main__":
    main()
