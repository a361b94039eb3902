"""Looks at every network of a grid: its true work, how long it takes, and what a command says of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploykit.networks.architecture.network import Network
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import find_family
from deploykit.networks.member import Member, choose_member
from deploykit.networks.scaling import Coefficients
from deploykit.planning.latency_source import Clock, Measured, Predicted, absent_gpu
from deploykit.planning.search.grid import DEFAULT_STEP, DEFAULT_TOLERANCE, coefficient_grid, work_factor
from deploykit.planning.search.score import Scorer
from deploykit.util.atomic_files import require_writable
from deploykit.util.local_gpu import local_gpu
from deploykit.util.types import Precision

DEFAULT_GPU = "T4"
FARTHEST_OFF = 0.2  # of the budget; time is in proportion to work over no more than that
PERCENTILE = 50.0  # of measured latencies: networks are compared, no deadline is met


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A network of the grid.

    Attributes:
        coefficients: that lead to it. Rounding leads several of them to one network: these have one latency
            and one score.
        work: alpha * beta^2 * gamma^2, what the rule of thumb makes of the baseline's.
        macs: multiply-accumulates it really has, for one image.
        latency_ms: of one image; predicted, or measured at the median.
        latency_at_budget_ms: the same for as much work as the budget allows, at the rate of this network.
        is_off: rounding took it further off the budget than such a comparison bears.
        score: what the user's command printed; None without one, or where it failed.
        failure: how it did.
    """

    coefficients: Coefficients
    member: Member
    work: float
    macs: int
    parameters: int
    latency_ms: float
    latency_at_budget_ms: float
    is_off: bool
    score: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search found.

    Attributes:
        budget_macs: multiply-accumulates that the networks were to have.
        measured: whether latencies were, on `gpu`, or predicted for it.
        points: by score, the best first; where there are none by latency at the budget, those off it last.
    """

    family: Family
    budget_macs: float
    gpu: str
    measured: bool
    points: tuple[Point, ...]


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
    progress: Callable[[str, float, float], None] = lambda stage, done, total: None,
) -> Search:
    """Every network whose coefficients meet the budget by the rule of thumb, and which of them is best.

    Args:
        family: see networks.families.registry; its baseline is scaled with phi = 1.
        budget: multiple of the baseline's work.
        step, tolerance: see grid.coefficient_grid.
        gpu: `cpu` and `local` measure on this machine, any other name predicts; default the GPU that is here,
            or T4.
        precision: default FP16, and FP32 on the CPU.
        score_command: what scores a network, see score.Scorer.
        jobs: commands at once.
        folder: keeps scores and measurements; what is there is not asked again.
        progress: told of a stage, how much of it is done, and of how much.

    Raises:
        DeployError: no such family or GPU, no grid, or a command that can't be run.
    """
    found = find_family(family)
    grid = coefficient_grid(budget, step=step, tolerance=tolerance)
    scorer = None
    if score_command is not None:
        require_writable(Path(folder) / "scores" / "score.json")
        scorer = Scorer(score_command, Path(folder) / "scores", jobs=jobs)
    clock = _clock(gpu, Path(folder))
    chosen = clock.precision_for(precision)
    stage = "measuring" if clock.measures else "predicting"
    budget_macs = budget * found.network(found.base).macs
    latencies: dict[Network, float] = {}
    points = []
    for at, coefficients in enumerate(grid):
        progress(stage, at, len(grid))
        member = choose_member(found, phi=1, rule="formula", coefficients=coefficients)
        network = member.network()
        if network not in latencies:
            latency = clock.latency(member, precision=chosen, batch=1)
            latencies[network] = latency.expected_ms
        points.append(_point(coefficients, member, network, latencies[network], budget_macs))
    progress(stage, len(grid), len(grid))
    if scorer is not None:
        points = _scored(points, scorer, progress)
    return Search(
        family=found,
        budget_macs=budget_macs,
        gpu=clock.title,
        measured=clock.measures,
        points=tuple(sorted(points, key=_rank)),
    )


def _clock(gpu: str | None, folder: Path) -> Clock:
    name = gpu or ("local" if local_gpu() else DEFAULT_GPU)
    absent = absent_gpu(name)
    if absent is not None:
        return Predicted(absent, percentile=PERCENTILE)
    return Measured(name, percentile=PERCENTILE, folder=folder)


def _point(
    coefficients: Coefficients, member: Member, network: Network, latency_ms: float, budget_macs: float
) -> Point:
    return Point(
        coefficients=coefficients,
        member=member,
        work=work_factor(coefficients),
        macs=network.macs,
        parameters=network.parameter_count,
        latency_ms=latency_ms,
        latency_at_budget_ms=latency_ms * budget_macs / network.macs,
        is_off=abs(network.macs / budget_macs - 1) > FARTHEST_OFF,
    )


def _scored(
    points: Sequence[Point], scorer: Scorer, progress: Callable[[str, float, float], None]
) -> list[Point]:
    """With scores: of each network the kept one, or a new one."""
    networks = {point.member.network(): point.member for point in reversed(points)}
    kept = {member.name: scorer.kept(member) for member in networks.values()}
    scores = {name: score for name, score in kept.items() if score is not None}
    missing = [member for member in networks.values() if member.name not in scores]
    progress("scoring", len(scores), len(networks))
    for score in scorer.scores(missing):
        scores[score.network] = score
        progress("scoring", len(scores), len(networks))
    return [
        replace(point, score=score.value, failure=score.failure)
        for point in points
        for score in [scores[networks[point.member.network()].name]]
    ]


def _rank(point: Point) -> tuple[float, bool, float]:
    return (math.inf if point.score is None else -point.score, point.is_off, point.latency_at_budget_ms)
