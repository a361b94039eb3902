"""Evaluate every network of a coefficient grid: its actual work, its latency, and a command's score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploykit.networks.architecture.network import Network
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import find_family
from deploykit.networks.member import Member, choose_member
from deploykit.networks.scaling import Coefficients
from deploykit.planning.latency_source import LatencySource, find_absent_gpu
from deploykit.planning.measured_latency import MeasuredLatency
from deploykit.planning.predicted_latency import PredictedLatency
from deploykit.planning.search.coefficient_grid import (
    DEFAULT_STEP,
    DEFAULT_TOLERANCE,
    coefficient_grid,
    compute_work_factor,
)
from deploykit.planning.search.scorer import Scorer
from deploykit.util.atomic_files import require_writable
from deploykit.util.local_gpu import local_gpu
from deploykit.util.progress import Progress, no_progress
from deploykit.util.types import Precision

DEFAULT_GPU = "T4"
MAX_DEVIATION = 0.2  # from the budget, as a fraction; latency is proportional to work only that far
SEARCH_PERCENTILE = 50.0  # of measured latencies: networks are compared, no deadline has to be met


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPoint:
    """One point of the grid and its network.

    Attributes:
        coefficients: Rounding leads several coefficients to one network, with one latency and one score.
        work: alpha * beta^2 * gamma^2, the work that the rule of thumb expects, in multiples of the baseline.
        macs: Actual multiply-accumulates per image.
        latency_ms: Latency of one image, predicted or the measured median.
        latency_at_budget_ms: The same for exactly as much work as the budget, at this network's rate.
        is_off_budget: Whether rounding took its work too far from the budget for a fair comparison.
        score: What the command printed; None without a command, or if it failed.
        failure: How the command failed; None if it did not.
    """

    coefficients: Coefficients
    member: Member
    work: float
    macs: int
    parameters: int
    latency_ms: float
    latency_at_budget_ms: float
    is_off_budget: bool
    score: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The result of a grid search.

    Attributes:
        budget_macs: Multiply-accumulates that the networks should have.
        gpu: Title of the machine or GPU.
        is_measured: Whether latencies were measured on `gpu`, not predicted for it.
        points: By score, the best first; without scores by latency at the budget, those off budget last.
    """

    family: Family
    budget_macs: float
    gpu: str
    is_measured: bool
    points: tuple[SearchPoint, ...]


def search_scaling(
    family: str,
    *,
    budget: float = 2.0,
    step: float = DEFAULT_STEP,
    tolerance: float = DEFAULT_TOLERANCE,
    gpu: str | None = None,
    precision: Precision | None = None,
    score_command: str | None = None,
    jobs: int = 1,
    folder: str | Path = "search",
    progress: Progress = no_progress,
) -> SearchResult:
    """Evaluate and rank every network whose coefficients meet the budget by the rule of thumb.

    Args:
        family: See `networks.families.registry`. Its baseline is scaled with phi = 1.
        budget: Multiple of the baseline's work, above 1 and at most 64.
        step: Distance between coefficients of the grid.
        tolerance: Largest relative deviation from the budget.
        gpu: `cpu` and `local` measure on this machine, any other name predicts. Default: the GPU in this
            machine, or else T4.
        precision: Default FP16, on the CPU FP32.
        score_command: Command that scores a network, see `scorer.Scorer`.
        jobs: Commands to run at the same time.
        folder: Where scores and measurements are kept and reused.
        progress: Called with the stages `predicting` or `measuring`, then `scoring`.

    Raises:
        DeployError: The family or GPU is unknown, the grid is empty, or the command cannot be run.
    """
    found_family = find_family(family)
    grid = coefficient_grid(budget, step=step, tolerance=tolerance)
    scorer = None
    if score_command is not None:
        require_writable(Path(folder) / "scores" / "score.json")
        scorer = Scorer(score_command, Path(folder) / "scores", jobs=jobs)
    source = _choose_source(gpu, Path(folder))
    resolved = source.resolve_precision(precision)
    stage = "measuring" if source.is_measuring else "predicting"
    budget_macs = budget * found_family.network(found_family.base).macs
    latencies: dict[Network, float] = {}
    points = []
    for index, coefficients in enumerate(grid):
        progress(stage, index, len(grid))
        member = choose_member(found_family, phi=1, rule="formula", coefficients=coefficients)
        network = member.network()
        if network not in latencies:
            latency = source.find_latency(member, precision=resolved, batch=1)
            latencies[network] = latency.expected_ms
        points.append(_make_point(coefficients, member, latencies[network], budget_macs))
    progress(stage, len(grid), len(grid))
    if scorer is not None:
        points = _add_scores(points, scorer, progress)
    return SearchResult(
        family=found_family,
        budget_macs=budget_macs,
        gpu=source.title,
        is_measured=source.is_measuring,
        points=tuple(sorted(points, key=_rank)),
    )


def _choose_source(gpu: str | None, folder: Path) -> LatencySource:
    name = gpu or ("local" if local_gpu() else DEFAULT_GPU)
    absent = find_absent_gpu(name)
    if absent is not None:
        return PredictedLatency(absent, percentile=SEARCH_PERCENTILE)
    return MeasuredLatency(name, percentile=SEARCH_PERCENTILE, folder=folder)


def _make_point(
    coefficients: Coefficients, member: Member, latency_ms: float, budget_macs: float
) -> SearchPoint:
    network = member.network()
    return SearchPoint(
        coefficients=coefficients,
        member=member,
        work=compute_work_factor(coefficients),
        macs=network.macs,
        parameters=network.parameter_count,
        latency_ms=latency_ms,
        latency_at_budget_ms=latency_ms * budget_macs / network.macs,
        is_off_budget=abs(network.macs / budget_macs - 1) > MAX_DEVIATION,
    )


def _add_scores(points: Sequence[SearchPoint], scorer: Scorer, progress: Progress) -> list[SearchPoint]:
    """Return the points with their network's score, from the folder or from a new run of the command."""
    networks = {point.member.network(): point.member for point in reversed(points)}
    known = {member.name: scorer.find_score(member) for member in networks.values()}
    scores = {name: score for name, score in known.items() if score is not None}
    missing = [member for member in networks.values() if member.name not in scores]
    progress("scoring", len(scores), len(networks))
    for score in scorer.score_members(missing):
        scores[score.network] = score
        progress("scoring", len(scores), len(networks))
    return [
        replace(point, score=score.value, failure=score.failure)
        for point in points
        for score in [scores[networks[point.member.network()].name]]
    ]


def _rank(point: SearchPoint) -> tuple[float, bool, float]:
    score = math.inf if point.score is None else -point.score
    return (score, point.is_off_budget, point.latency_at_budget_ms)
