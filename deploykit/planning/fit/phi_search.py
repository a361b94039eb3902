"""Search for the largest phi that meets the targets, at one precision."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from deploykit.networks.member import Member
from deploykit.networks.scaling import format_phi
from deploykit.planning.fit.advice import floor_percent, suggest_changes
from deploykit.planning.fit.batch_choice import evaluate_member
from deploykit.planning.fit.notes import note_candidates
from deploykit.planning.fit.phi_grid import bisect_largest, phi_grid, phis_between
from deploykit.planning.fit.request import FitRequest, find_published_accuracy
from deploykit.planning.fit.result import Candidate, FitResult
from deploykit.util.errors import DeployError, NothingFitsError


def search_phi(request: FitRequest) -> FitResult:
    """Find the largest phi that meets the request's targets.

    Raises:
        NothingFitsError: This machine is measured, and no network is accurate enough to be worth it.
        DeployError: The GPU's facts do not suffice for a prediction.
    """
    grid = phi_grid(request.phi_step, request.family.phi_range)
    reachable, notes = _find_reachable(request, grid)
    search = _Search(request)
    if request.latency_source.is_measuring:
        bisect_largest(_find_accurate(request, reachable), search.fits)
    else:
        search.try_grid(reachable)
    candidates = search.candidates
    result = FitResult(
        family=request.family.title,
        metric=request.family.metric,
        gpu=request.latency_source.title,
        axis=request.axis,
        targets=request.targets,
        percentile=request.percentile,
        candidates=candidates,
        optimistic=request.optimistic,
        notes=(*notes, *note_candidates(request, candidates)),
    )
    if result.chosen is not None:
        return result
    miss = result.nearest_miss
    advice = suggest_changes(request, miss, search.members[miss.phi], candidates)
    return replace(result, advice=tuple(advice))


@dataclass(slots=True)
class _Search:
    """Networks that were tried so far, by phi."""

    request: FitRequest
    members: dict[float, Member] = field(default_factory=dict)
    tried: dict[float, Candidate] = field(default_factory=dict)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every candidate, in rising order of phi."""
        return tuple(self.tried[phi] for phi in sorted(self.tried))

    def fits(self, phi: float) -> bool:
        """Return whether phi meets its targets, except accuracy, which rises with phi instead of falling."""
        if phi not in self.tried:
            self.members[phi] = self.request.choose_member(phi)
            self.tried[phi] = evaluate_member(self.request, phi, self.members[phi])
        return not {"latency", "throughput", "memory"} & set(self.tried[phi].misses)

    def try_grid(self, phis: Sequence[float]) -> None:
        """Try the published members, then the finer steps just above the largest that fits."""
        coarse = phis if self.request.phi_step >= 1 else [phi for phi in phis if phi == int(phi)]
        fitting = max([phi for phi in coarse if self.fits(phi)], default=None)
        for phi in phis_between(phis, coarse, fitting):
            self.fits(phi)


def _find_reachable(request: FitRequest, grid: Sequence[float]) -> tuple[Sequence[float], tuple[str, ...]]:
    """Return the phis whose work one axis alone can match, and a note if these are not all."""
    if request.axis is None:
        return grid, ()

    def is_reachable(phi: float) -> bool:
        try:
            request.choose_member(phi)
        except DeployError:
            return False
        return True

    count = bisect_right(range(len(grid)), False, key=lambda index: not is_reachable(grid[index]))
    if count == len(grid):
        return grid, ()
    return grid[:count], (
        f"{request.axis.capitalize()} alone cannot reach the work of phi {format_phi(grid[count])}: it and "
        "larger phis were left out.",
    )


def _find_accurate(request: FitRequest, phis: Sequence[float]) -> list[float]:
    """Return the phis that are accurate enough; the others need no measurement.

    Raises:
        NothingFitsError: No phi is accurate enough.
    """
    published = {
        phi: find_published_accuracy(request.family, phi, request.choose_member(phi)) for phi in phis
    }
    accurate = [phi for phi, value in published.items() if request.targets.is_accurate_enough(value)]
    if not accurate:
        best = max((value for value in published.values() if value is not None), default=None)
        highest = "none was published" if best is None else f"the highest is {floor_percent(best)} %"
        raise NothingFitsError(
            f"Nothing fits, and nothing was measured: no {request.family.title} has a published accuracy "
            f"that high; {highest}.",
            code="nothing-fits",
            fix="leave out --min-accuracy" if best is None else f"give --min-accuracy {floor_percent(best)}%",
        )
    return accurate
