"""The largest phi that meets a latency or throughput target on a GPU: measured here, or predicted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from deploykit.architecture.families import DEFAULT_FAMILY, find_family
from deploykit.architecture.family import Family
from deploykit.architecture.member import choose_member
from deploykit.errors import DeployError
from deploykit.local_gpu import local_gpu
from deploykit.model_file import Precision
from deploykit.predict.cost_model import predict_latency
from deploykit.predict.gpus import Gpu, find_gpu
from deploykit.scaling import PUBLISHED_PHI_RANGE, phi_label

Evidence = Literal["measured", "predicted"]

DEFAULT_PERCENTILE = 90.0  # MLPerf's for its single-stream scenario
MIN_PHI_STEP = 0.05  # 141 networks: still answered within a second
MAX_BATCH = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a batch must meet.

    Attributes:
        max_latency_ms: a batch takes at most this.
        min_images_per_s: a stream of batches, one after another, makes at least this.
    """

    max_latency_ms: float | None = None
    min_images_per_s: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.max_latency_ms, self.min_images_per_s) if value is not None]
        example = "--max-latency 10ms or --min-throughput 500"
        if not given:
            raise DeployError("There is no target to fit.", fix=f"give {example}")
        if not all(0 < value < math.inf for value in given):
            raise DeployError("A target must be above zero and finite.", fix=f"give {example}")

    def is_met(self, *, latency_ms: float, batch: int) -> bool:
        return self.is_fast_enough(latency_ms) and self.is_productive_enough(latency_ms, batch)

    def is_fast_enough(self, latency_ms: float) -> bool:
        return self.max_latency_ms is None or latency_ms <= self.max_latency_ms

    def is_productive_enough(self, latency_ms: float, batch: int) -> bool:
        return self.min_images_per_s is None or 1000 * batch / latency_ms >= self.min_images_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one batch. Measured: all three are the percentile asked for. Predicted: an interval."""

    expected_ms: float
    low_ms: float
    high_ms: float
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One phi and whether it fits, decided on latency.high_ms, the unfavourable end."""

    phi: float
    side_px: int
    batch: int
    latency: Latency
    fits: bool

    @property
    def images_per_s(self) -> float:
        return 1000 * self.batch / self.latency.expected_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The answer.

    Attributes:
        candidates: every phi that was looked at, rising.
        chosen: the largest that fits; None where none does.
    """

    family: str
    gpu: str
    precision: Precision
    goal: Goal
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate | None:
        return max((each for each in self.candidates if each.fits), key=lambda each: each.phi, default=None)

    @property
    def hoped_for(self) -> Candidate | None:
        """The largest beyond the chosen one whose expected latency fits, though not its interval's end."""
        chosen_phi = self.chosen.phi if self.chosen else -math.inf
        hopeful = [
            each
            for each in self.candidates
            if each.phi > chosen_phi
            and self.goal.is_met(latency_ms=each.latency.expected_ms, batch=each.batch)
        ]
        return max(hopeful, key=lambda each: each.phi, default=None)


def fit_phi(
    gpu: str,
    *,
    max_latency_ms: float | None = None,
    min_images_per_s: float | None = None,
    family: str = DEFAULT_FAMILY,
    batch: int = 1,
    precision: Precision | None = None,
    phi_step: float = 1.0,
    percentile: float = DEFAULT_PERCENTILE,
    progress: Callable[[str], None] = lambda phase: None,
) -> Fit:
    """The largest phi of a family that meets the targets.

    Args:
        gpu: a GPU's name, `local` or `cpu`. What is here is measured, with bisection over phi; a GPU
            that isn't is predicted for TensorRT.
        max_latency_ms, min_images_per_s: targets; at least one.
        family: see architecture.families; EfficientNet's phis go from 0 to 7.
        batch: images at once.
        precision: default FP16, and FP32 on the CPU.
        phi_step: distance of the phis looked at, at least 0.05.
        percentile: of measured latencies, which decides.

    Raises:
        DeployError: unknown GPU, or a target, batch, step or percentile that makes no sense.
    """
    goal = Goal(max_latency_ms=max_latency_ms, min_images_per_s=min_images_per_s)
    if not 1 <= batch <= MAX_BATCH:
        raise DeployError(f"A batch of {batch} is not between 1 and {MAX_BATCH}.", fix="give --batch 1")
    if not 0 < percentile <= 100:
        raise DeployError(f"There is no percentile {percentile:g}.", fix="give --percentile 90 or 99")
    of_family = find_family(family)
    phis = phi_grid(phi_step, of_family.phi_range)
    absent = _absent_gpu(gpu)
    if absent is None:
        return _measured(
            gpu,
            goal,
            of_family,
            phis=phis,
            batch=batch,
            precision=precision,
            percentile=percentile,
            progress=progress,
        )
    chosen_precision = precision or "fp16"
    candidates = tuple(
        _predicted(of_family, phi, absent, goal, batch=batch, precision=chosen_precision) for phi in phis
    )
    return Fit(
        family=of_family.title,
        gpu=absent.name,
        precision=chosen_precision,
        goal=goal,
        candidates=candidates,
    )


def phi_grid(step: float, phi_range: tuple[float, float] = PUBLISHED_PHI_RANGE) -> tuple[float, ...]:
    """The range in steps, both ends among them."""
    low, high = phi_range
    if not MIN_PHI_STEP <= step <= high:
        raise DeployError(
            f"A phi step of {step:g} is not between {MIN_PHI_STEP:g} and {high:g}.", fix="give --phi-step 0.5"
        )
    inner = (round(low + index * step, 6) for index in range(int((high - low) / step) + 1))
    return tuple(dict.fromkeys((*inner, high)))


def bisect_largest(phis: Sequence[float], fits: Callable[[float], bool]) -> None:
    """Asks about as few phis as tell which is the largest that fits, latency rising with phi."""
    low, high = 0, len(phis) - 1
    while low <= high:
        middle = (low + high) // 2
        if fits(phis[middle]):
            low = middle + 1
        else:
            high = middle - 1


def _absent_gpu(name: str) -> Gpu | None:
    """The GPU to predict for; None where this machine itself is meant."""
    if name.lower() in ("cpu", "local"):
        return None
    known, here = find_gpu(name), local_gpu()
    try:
        is_here = here is not None and find_gpu(here.name) == known
    except DeployError:  # the local one is not in the list
        is_here = False
    return None if is_here else known


def _predicted(
    family: Family, phi: float, gpu: Gpu, goal: Goal, *, batch: int, precision: Precision
) -> Candidate:
    scale = family.scale_for(phi)
    prediction = predict_latency(family.network(scale), gpu, precision=precision, batch=batch)
    return Candidate(
        phi=phi,
        side_px=scale.side_px,
        batch=batch,
        latency=Latency(
            expected_ms=prediction.latency_ms,
            low_ms=prediction.low_ms,
            high_ms=prediction.high_ms,
            evidence="predicted",
        ),
        fits=goal.is_met(latency_ms=prediction.high_ms, batch=batch),
    )


def _measured(
    gpu: str,
    goal: Goal,
    family: Family,
    *,
    phis: Sequence[float],
    batch: int,
    precision: Precision | None,
    percentile: float,
    progress: Callable[[str], None],
) -> Fit:
    from deploykit.engine.targets import precision_for, target_for
    from deploykit.measure import measure_latency

    target = target_for(gpu)
    chosen_precision = precision_for(target, precision)
    candidates: list[Candidate] = []

    def fits(phi: float) -> bool:
        progress(f"measuring phi {phi_label(phi)}")
        member = choose_member(family, phi=phi)
        record = measure_latency(member, gpu=gpu, precision=chosen_precision, batch=batch)
        milliseconds = record.percentile_ms(percentile).value
        candidates.append(
            Candidate(
                phi=phi,
                side_px=family.scale_for(phi).side_px,
                batch=batch,
                latency=Latency(
                    expected_ms=milliseconds, low_ms=milliseconds, high_ms=milliseconds, evidence="measured"
                ),
                fits=goal.is_met(latency_ms=milliseconds, batch=batch),
            )
        )
        return candidates[-1].fits

    bisect_largest(phis, fits)
    return Fit(
        family=family.title,
        gpu=target.name,
        precision=chosen_precision,
        goal=goal,
        candidates=tuple(sorted(candidates, key=lambda each: each.phi)),
    )
