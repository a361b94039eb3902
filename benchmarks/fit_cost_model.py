"""Fits deploykit's cost model to published TensorRT latencies and says how far to trust it.

    python benchmarks/fit_cost_model.py

Reads published_latency.csv beside it, prints the parameters and the errors, and writes
deploykit/predict/cost_model.json and docs/cost-model.svg. The same input gives the same bytes.

The fit is least squares on log(predicted / published), with a weak log-normal prior a parameter:
where a left-out GPU leaves a parameter undetermined, the prior keeps it physical.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deploykit.architecture.families import find_family
from deploykit.architecture.graph import Activation, Network
from deploykit.predict.cost_model import (
    CHANNEL_GRANULE,
    CONFIDENCE,
    UNFUSED,
    Parameters,
    Precision,
    Rates,
    sustained_rates,
)
from deploykit.predict.gpus import find_gpu
from deploykit.predict.kernels import KERNEL_KINDS, kernel_counts

HERE = Path(__file__).parent
PUBLISHED_CSV = HERE / "published_latency.csv"
MODEL_JSON = HERE.parent / "deploykit" / "predict" / "cost_model.json"
RESIDUALS_SVG = HERE.parent / "docs" / "cost-model.svg"

PRECISION: dict[str, Precision] = {"fp16": "fp16", "int8": "int8"}
RELU6 = "-relu6"  # of a network whose SiLU was replaced
CONVERGED_LOG_STEP = 1e-7  # far below the four digits kept
ERROR_SCALE = (
    0.2  # of a prediction's log; weighs the data, of which a network's batches are much alike, against
)
#                    the priors
PRIOR_CENTRE = Parameters(
    tensor_fraction=0.6,
    cuda_fraction=0.6,
    grouped_fraction=0.1,
    depthwise_fraction=0.15,
    bandwidth_fraction=0.75,
    launch_us=3.5,
    outputs_per_sm=1500.0,
    silu_fraction=0.8,
    silu_fraction_int8=0.3,
    int8_slowdown=1.3,
)
PRIOR_LOG_SPREAD = Parameters(
    tensor_fraction=0.3,
    cuda_fraction=0.3,
    grouped_fraction=0.7,
    depthwise_fraction=0.5,
    bandwidth_fraction=0.15,
    launch_us=0.2,
    outputs_per_sm=0.25,
    silu_fraction=0.3,
    silu_fraction_int8=0.3,
    int8_slowdown=0.3,
)

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published latency; PyTorch's are what TensorRT takes at most.

    Attributes: side_px: None for the network's own.
    """

    runtime: Literal["tensorrt", "pytorch"]
    gpu: str
    family: str
    network: str
    side_px: int | None
    precision: Precision
    batch: int
    latency_ms: float

    @property
    def design(self) -> str:
        """What its family is a size of: `resnet`, `efficientnetv2`."""
        return re.sub(r"(?<=resnet)\d+|-.*", "", self.family)

    @property
    def macs(self) -> int:
        """Of one image."""
        return network_of(self.family, self.network, self.side_px).macs


HeldOut = tuple[Row, float]
"""A row and log(published / predicted) under a fit that never saw it."""


def read_rows(path: Path = PUBLISHED_CSV) -> tuple[Row, ...]:
    """The published figures, in the file's order."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(
            Row(
                runtime="pytorch" if line["runtime"] == "pytorch" else "tensorrt",
                gpu=line["gpu"],
                family=line["family"],
                network=line["network"],
                side_px=int(line["side_px"]) if line["side_px"] else None,
                precision=PRECISION[line["precision"]],
                batch=int(line["batch"]),
                latency_ms=float(line["latency_ms"]),
            )
            for line in csv.DictReader(file)
        )


@cache
def network_of(family: str, name: str, side_px: int | None = None) -> Network:
    """The network a figure is of."""
    found = find_family(family)
    scale = found.member(name.removesuffix(RELU6))
    network = found.network(scale if side_px is None else replace(scale, side_px=side_px))
    if not name.endswith(RELU6):
        return network
    layers = (
        replace(layer, kind="relu6") if isinstance(layer, Activation) and layer.kind == "silu" else layer
        for layer in network.layers
    )
    return replace(network, layers=tuple(layers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All kernels of some rows, one after another, as arrays: what the model's formula takes at once.

    starts: where each row's begin. rates: which of `targets` each runs at. kind: index into KERNEL_KINDS.
    """

    targets: tuple[tuple[str, Precision], ...]
    starts: NDArray[np.intp]
    rates: NDArray[np.intp]
    kind: NDArray[np.intp]
    count: Vector
    macs: Vector
    batch: Vector
    moved: Vector
    written: Vector

    def latencies_ms(self, parameters: Parameters) -> Vector:
        """What the model says where the rows have what was published; cost_model.batch_ms, of arrays."""
        at = [sustained_rates(find_gpu(gpu), precision, parameters) for gpu, precision in self.targets]

        def each(fact: Callable[[Rates], float]) -> Vector:
            return np.array([fact(rates) for rates in at])[self.rates]

        flop_s = np.array([[rates.flop_s(kind) for kind in KERNEL_KINDS] for rates in at])
        share = np.array([[rates.share(kind) for kind in KERNEL_KINDS] for rates in at])
        images = self.batch + each(lambda rates: rates.busy_outputs) / self.written
        compute_s = 2 * self.macs * images / flop_s[self.rates, self.kind]
        memory_s = self.moved * each(lambda rates: rates.element_bytes / rates.bytes_s)
        kernels_s = each(lambda rates: rates.launch_s) + np.hypot(compute_s, memory_s)
        return np.add.reduceat(self.count * share[self.rates, self.kind] * kernels_s, self.starts) * 1e3


@cache
def work_of(rows: tuple[Row, ...]) -> Work:
    """The kernels that the rows' networks run as."""
    targets = tuple(dict.fromkeys((row.gpu, row.precision) for row in rows))
    tables = [_kernels_of(row) for row in rows]
    sizes = [len(table) for table in tables]
    kind, count, macs, moved, weights, written = np.concatenate(tables).T
    batch = np.repeat([float(row.batch) for row in rows], sizes)
    return Work(
        targets=targets,
        starts=np.cumsum([0, *sizes[:-1]]),
        rates=np.repeat([targets.index((row.gpu, row.precision)) for row in rows], sizes),
        kind=kind.astype(int),
        count=count,
        macs=macs,
        batch=batch,
        moved=moved * batch + weights,
        written=written,
    )


@cache
def _kernels_of(row: Row) -> Vector:
    """Kind, count, multiply-accumulates, elements moved an image, weights and outputs of each kernel."""
    granule = CHANNEL_GRANULE[_stored(row)]
    found = kernel_counts(
        network_of(row.family, row.network, row.side_px), unfused=UNFUSED, channel_granule=granule
    )
    return np.array(
        [
            (
                KERNEL_KINDS.index(kernel.kind),
                count,
                kernel.macs,
                kernel.read_elements + kernel.written_elements,
                kernel.weight_elements,
                kernel.written_elements,
            )
            for kernel, count in found
        ],
        float,
    )


def _stored(row: Row) -> Precision:
    """What its activations are stored as: a GPU without INT8 tensor cores keeps FP16."""
    return "fp16" if find_gpu(row.gpu).int8_dp4a_tops is not None else row.precision


def log_ratios(rows: Iterable[Row], parameters: Parameters) -> Vector:
    """log(published / predicted): positive where the prediction is too fast."""
    rows = tuple(rows)
    published_ms = np.array([row.latency_ms for row in rows])
    return np.log(published_ms / work_of(rows).latencies_ms(parameters))


def fit(rows: Sequence[Row], *, steps: int = 40) -> Parameters:
    """The most plausible parameters: Levenberg-Marquardt on their logarithms.

    A prediction slower than what PyTorch was published with is wrong by that much; a faster one is not.
    """
    centre, spread = np.log(_vector(PRIOR_CENTRE)), _vector(PRIOR_LOG_SPREAD)
    is_bound = np.array([row.runtime == "pytorch" for row in rows])

    def residuals(x: Vector) -> Vector:
        ratios = log_ratios(rows, _parameters(x))
        errors = np.where(is_bound, np.minimum(ratios, 0.0), ratios)
        return np.concatenate([errors / ERROR_SCALE, (x - centre) / spread])

    return _parameters(_least_squares(residuals, centre, steps))


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


def of_tensorrt(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Those that are to be predicted."""
    return tuple(row for row in rows if row.runtime == "tensorrt")


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
    tail = (1 - CONFIDENCE) / 2
    low = ratios[np.searchsorted(below, tail)]
    high = ratios[np.searchsorted(below, 1 - tail - 1e-9)]  # less the sum's rounding
    return math.floor(math.exp(low) * 1000) / 1000, math.ceil(math.exp(high) * 1000) / 1000


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
    published = of_tensorrt(rows)
    model = {
        "parameters": asdict(rounded(fit(rows))),
        "gpus": sorted({row.gpu for row in published if row.family == "efficientnet"}),
        "families": sorted({row.family for row in published}),
        "largest_batch": max(row.batch for row in published),
        "smallest_macs": min(row.macs for row in published),
        "largest_macs": max(row.macs for row in published),
        "interval_measured": interval(efficientnets(held_out(rows, by_gpu_and_network))),
        "interval_elsewhere": interval(held_out(rows, by_gpu)),
        "interval_unfamiliar": interval(left_out_wholly(rows)),
    }
    return json.dumps(model, indent=2) + "\n"


def main() -> None:
    """Fits, prints, writes."""
    rows = read_rows()
    text = model_json(rows)
    MODEL_JSON.write_text(text, encoding="utf-8")
    print(text)
    RESIDUALS_SVG.write_text(residuals_svg(held_out(rows, by_gpu)), encoding="utf-8")
    left_gpu, left_network = held_out(rows, by_gpu), held_out(rows, by_gpu_and_network)
    wholly = left_out_wholly(rows)
    print(f"{'published / predicted':<45} rows  geometric mean  mean error  lowest  highest")
    for name, pairs in (
        ("in sample", in_sample(rows)),
        ("without that GPU", left_gpu),
        ("without that network on that GPU", left_network),
        ("without that GPU and without the design", wholly),
    ):
        _print_errors(name, pairs)
    print("\ninterval                                       factors         rows inside")
    for name, pairs in (
        ("EfficientNet, network left out there", efficientnets(left_network)),
        ("GPU left out", left_gpu),
        ("GPU and design left out", wholly),
    ):
        factors = interval(pairs)
        _print_coverage(name, pairs, factors)
        for gpu in dict.fromkeys(row.gpu for row, _ in pairs):
            _print_coverage(f"  {gpu}", [pair for pair in pairs if pair[0].gpu == gpu], factors)
    _print_bounds(rows)
    _print_extrapolations(rows)
    _print_points(efficientnets(left_gpu))


def in_sample(rows: Sequence[Row]) -> tuple[HeldOut, ...]:
    """Each row under the fit to all of them."""
    published = of_tensorrt(rows)
    return tuple(zip(published, log_ratios(published, fit(rows)).tolist(), strict=True))


def mean_error(pairs: Iterable[HeldOut]) -> float:
    """Mean absolute error of the prediction, as a fraction of what was published."""
    return float(np.mean([abs(math.exp(-ratio) - 1) for _, ratio in pairs]))


def residuals_svg(pairs: Iterable[HeldOut]) -> str:
    """Published over predicted against the published latency of one image, a panel a GPU."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "deploykit", "font.size": 9})
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    pairs = tuple(pairs)
    gpus = list(dict.fromkeys(row.gpu for row, _ in pairs))
    colours = {design: f"C{at}" for at, design in enumerate(dict.fromkeys(row.design for row, _ in pairs))}
    figure, panels = pyplot.subplots(1, len(gpus), figsize=(11, 3.2), sharey=True, layout="constrained")
    low, high = interval(pairs)
    for panel, gpu in zip(panels, gpus, strict=True):
        panel.axhspan(low, high, color="0.92")
        panel.axhline(1, color="0.5", linewidth=0.8)
        for row, ratio in (pair for pair in pairs if pair[0].gpu == gpu):
            panel.plot(
                row.latency_ms / row.batch,
                math.exp(ratio),
                marker="o" if row.precision == "fp16" else "^",
                markersize=4,
                color=colours[row.design],
            )
        panel.set(title=gpu, xscale="log", yscale="log", xlabel="ms an image, published")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set(ylabel="published / predicted", yticks=(ticks := (0.6, 0.8, 1, 1.25, 1.6)))
    panels[0].set_yticklabels([f"{tick:g}" for tick in ticks])
    panels[0].minorticks_off()
    for design, colour in colours.items():
        panels[-1].plot([], [], "s", color=colour, markersize=4, label=design)
    panels[-1].plot([], [], "o", color="0.3", markersize=4, label="FP16")
    panels[-1].plot([], [], "^", color="0.3", markersize=4, label="INT8")
    figure.legend(loc="outside right upper", frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return text.getvalue()


def _print_errors(name: str, pairs: Iterable[HeldOut]) -> None:
    groups: dict[str, list[HeldOut]] = {}
    for row, ratio in pairs:
        for group in (name, f"  {row.gpu}, {row.design} {row.precision.upper()}"):
            groups.setdefault(group, []).append((row, ratio))
    for group, members in groups.items():
        mean, low, high = np.exp(
            [each([ratio for _, ratio in members]) for each in (np.mean, np.min, np.max)]
        )
        print(f"{group:<45}{len(members):>5}{mean:>16.3f}{mean_error(members):>12.1%}{low:>8.2f}{high:>9.2f}")


def _print_coverage(name: str, pairs: Iterable[HeldOut], factors: tuple[float, float]) -> None:
    print(f"{name:<42}{factors[0]:>8.3f} to {factors[1]:.3f}{coverage(pairs, factors):>16.1%}")


def _print_bounds(rows: Sequence[Row]) -> None:
    print("\nPyTorch's over predicted        rows  lowest  median  highest")
    found = fit(rows)
    for gpu in dict.fromkeys(row.gpu for row in rows if row.runtime == "pytorch"):
        mine = [row for row in rows if row.gpu == gpu and row.runtime == "pytorch"]
        ratios = np.exp(log_ratios(mine, found))
        low, middle, high = (float(each(ratios)) for each in (np.min, np.median, np.max))
        print(f"{gpu:<32}{len(mine):>4}{low:>8.2f}{middle:>8.2f}{high:>9.2f}")


def _print_extrapolations(rows: Sequence[Row]) -> None:
    print("\nbeyond what was fitted          rms log error  in sample  ratio  doublings")
    known = dict(in_sample(rows))

    def show(name: str, pairs: Sequence[HeldOut], doublings: float) -> None:
        there, here = (
            math.sqrt(np.mean(np.square(ratios)))
            for ratios in ([ratio for _, ratio in pairs], [known[row] for row, _ in pairs])
        )
        print(f"{name:<32}{there:>13.3f}{here:>11.3f}{there / here:>7.2f}{doublings:>11.1f}")

    for limit in (8, 16, 32):
        pairs = [pair for pair in extrapolated(rows, lambda row: row.batch, limit) if pair[0].batch == 64]
        show(f"batch 64 from up to {limit}", pairs, math.log2(64 / limit))
    for limit_g in (2.5, 5, 10):
        pairs = list(extrapolated(rows, lambda row: row.macs / 1e9, limit_g))
        beyond = np.mean([math.log2(row.macs / 1e9 / limit_g) for row, _ in pairs])
        show(f"over {limit_g:g} G MACs", pairs, float(beyond))
    for limit_g in (5, 10):
        pairs = list(extrapolated(rows, lambda row: row.macs / 1e9, limit_g, above=False))
        beyond = np.mean([math.log2(limit_g / (row.macs / 1e9)) for row, _ in pairs])
        show(f"under {limit_g:g} G MACs", pairs, float(beyond))


def _print_points(pairs: Iterable[HeldOut]) -> None:
    print(
        "\n| GPU | network | precision | batch | published | predicted | off |\n|---|---|---|---|---|---|---|"
    )
    for row, ratio in pairs:
        predicted_ms = row.latency_ms * math.exp(-ratio)
        print(
            f"| {row.gpu} | {row.network.upper()} | {row.precision.upper()} | {row.batch} | "
            f"{row.latency_ms:g} ms | {predicted_ms:.3g} ms | {predicted_ms / row.latency_ms - 1:+.0%} |"
        )


if __name__ == "__main__":
    main()
