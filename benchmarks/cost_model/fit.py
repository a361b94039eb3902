"""Fit the parameters of the cost model to published latencies.

The fit minimizes the squares of log(predicted / published), with a weak log-normal prior on each parameter.
If a left-out GPU leaves a parameter undetermined, the prior keeps it physical.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cost_model.published import PublishedLatency, build_network
from deploykit.gpu_catalog.gpus import find_gpu
from deploykit.planning.cost_model.cost_model import UNFUSED_ACTIVATIONS
from deploykit.planning.cost_model.fitted_model import Parameters
from deploykit.planning.cost_model.kernels import KERNEL_KINDS, count_kernels
from deploykit.planning.cost_model.rates import CHANNEL_GRANULE, Rates, compute_rates, storage_precision
from deploykit.util.types import Precision

CONVERGED_LOG_STEP = 1e-7  # far below the four digits kept
# Standard deviation of a prediction's logarithm. It weighs the data against the priors, and is twice the
# actual error because the batches of one network are not independent.
ERROR_SCALE = 0.2
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
class KernelWork:
    """All kernels of some rows, one after another, as arrays for the model's formula.

    Attributes:
        starts: Index of each row's first kernel.
        rates: Index into `targets` of each kernel.
        kind: Index into KERNEL_KINDS of each kernel.
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
        """Return the predicted latency of each row; cost_model.compute_batch_ms for arrays."""
        at = [compute_rates(find_gpu(gpu), precision, parameters) for gpu, precision in self.targets]

        def each(fact: Callable[[Rates], float]) -> Vector:
            return np.array([fact(rates) for rates in at])[self.rates]

        flop_s = np.array([[rates.flop_s(kind) for kind in KERNEL_KINDS] for rates in at])
        share = np.array([[rates.cost_share(kind) for kind in KERNEL_KINDS] for rates in at])
        images = self.batch + each(lambda rates: rates.busy_outputs) / self.written
        compute_s = 2 * self.macs * images / flop_s[self.rates, self.kind]
        memory_s = self.moved * each(lambda rates: rates.element_bytes / rates.bytes_s)
        kernels_s = each(lambda rates: rates.launch_s) + np.hypot(compute_s, memory_s)
        return np.add.reduceat(self.count * share[self.rates, self.kind] * kernels_s, self.starts) * 1e3


@cache
def collect_work(rows: tuple[PublishedLatency, ...]) -> KernelWork:
    """Return the kernels of the rows' networks."""
    targets = tuple(dict.fromkeys((row.gpu, row.precision) for row in rows))
    tables = [_list_kernels(row) for row in rows]
    sizes = [len(table) for table in tables]
    kind, count, macs, moved, weights, written = np.concatenate(tables).T
    batch = np.repeat([float(row.batch) for row in rows], sizes)
    return KernelWork(
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
def _list_kernels(row: PublishedLatency) -> Vector:
    """Return kind, count, MACs, elements moved per image, weights and outputs of each kernel."""
    granule = CHANNEL_GRANULE[storage_precision(find_gpu(row.gpu), row.precision)]
    found = count_kernels(
        build_network(row.family, row.network, row.side_px),
        unfused=UNFUSED_ACTIVATIONS,
        channel_granule=granule,
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


def log_ratios(rows: Iterable[PublishedLatency], parameters: Parameters) -> Vector:
    """Return log(published / predicted), which is positive if the prediction is too fast."""
    rows = tuple(rows)
    return np.log(_published_ms(rows) / collect_work(rows).latencies_ms(parameters))


def _published_ms(rows: Sequence[PublishedLatency]) -> Vector:
    return np.array([row.latency_ms for row in rows])


def fit_parameters(rows: Sequence[PublishedLatency], *, steps: int = 40) -> Parameters:
    """Return the most plausible parameters, by Levenberg-Marquardt on their logarithms.

    PyTorch's latencies are upper bounds: only a slower prediction is an error.
    """
    centre, spread = np.log(_vector(PRIOR_CENTRE)), _vector(PRIOR_LOG_SPREAD)
    is_bound = np.array([row.runtime == "pytorch" for row in rows])
    work, published_ms = collect_work(tuple(rows)), _published_ms(rows)

    def residuals(x: Vector) -> Vector:
        ratios = np.log(published_ms / work.latencies_ms(_parameters(x)))
        errors = np.where(is_bound, np.minimum(ratios, 0.0), ratios)
        return np.concatenate([errors / ERROR_SCALE, (x - centre) / spread])

    return _parameters(_least_squares(residuals, centre, steps))


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


def round_parameters(parameters: Parameters) -> Parameters:
    """Round to four digits: more than the data determine, and few enough to be equal on every machine."""
    return Parameters(**{name: float(f"{value:.4g}") for name, value in asdict(parameters).items()})
