"""Finds the largest phi that meets its targets."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from deploykit.gpu_catalog.gpus import Gpu
from deploykit.networks.families.registry import DEFAULT_FAMILY, find_family
from deploykit.networks.member import Member, choose_member
from deploykit.networks.scaling import AXES, Axis, format_phi
from deploykit.networks.single_axis import single_axis_member
from deploykit.planning.fit.advice import advise, floor_percent
from deploykit.planning.fit.answer import Candidate, Fit
from deploykit.planning.fit.batch import candidate_at
from deploykit.planning.fit.goal import Goal
from deploykit.planning.fit.grid import MAX_BATCH, at_the_edge, bisect_largest, phi_grid
from deploykit.planning.fit.question import Question, published_accuracy
from deploykit.planning.latency_source import (
    DEFAULT_FOLDER,
    PREDICTED_PRECISIONS,
    Clock,
    Measured,
    Predicted,
    absent_gpu,
)
from deploykit.util.errors import DeployError, NothingFitsError
from deploykit.util.types import Precision

DEFAULT_PERCENTILE = 90.0  # MLPerf's for its single-stream scenario


def fit_phi(
    gpu: str | Gpu,
    *,
    max_latency_ms: float | None = None,
    min_images_per_s: float | None = None,
    max_memory_bytes: float | None = None,
    min_accuracy: float | None = None,
    family: str = DEFAULT_FAMILY,
    axis: Axis | None = None,
    batch: int | Literal["auto"] | None = 1,
    precision: Precision | Literal["best"] | None = None,
    phi_step: float = 1.0,
    percentile: float = DEFAULT_PERCENTILE,
    optimistic: bool = False,
    records: str | Path | Sequence[str | Path] = (),
    folder: str | Path = DEFAULT_FOLDER,
    progress: Callable[[str], None] = lambda phase: None,
) -> Fit:
    """The largest phi of a family that meets the targets.

    Args:
        gpu: a GPU, its name, `local` or `cpu`. What is here is measured, with bisection over phi; a GPU
            that isn't is predicted for TensorRT.
        max_latency_ms, min_images_per_s: targets; at least one.
        max_memory_bytes: of weights and activations, see planning.fit.memory.
        min_accuracy: published accuracy, as a fraction.
        family: see networks.families.registry; EfficientNet's phis go from 0 to 7.
        axis: scale it alone, to as much work as phi has; default depth, width and side together.
        batch: images at once; `auto`, or None, tries powers of two up to 256.
        precision: default FP16, and FP32 on the CPU; `best` compares that with INT8.
        phi_step: distance of the phis looked at, at least 0.05; below 1, between the largest published member
            that fits and the next.
        percentile: of measured and recorded latencies, which decides.
        optimistic: let the middle of predicted intervals decide, not the unfavourable end.
        records: file or folder of measurements on that GPU, or several, which count more than predictions.
        folder: keeps what is measured here, and is looked into first; not for a GPU that isn't here.
        progress: told what is going on.

    Raises:
        DeployError: unknown GPU; a target, batch, precision, axis, step or percentile that makes no sense; or
            no network to measure that is accurate enough.
    """
    goal = Goal(
        max_latency_ms=max_latency_ms,
        min_images_per_s=min_images_per_s,
        max_memory_bytes=max_memory_bytes,
        min_accuracy=min_accuracy,
    )
    _require_known(batch=batch, precision=precision, axis=axis)
    if not 0 < percentile <= 100:
        raise DeployError(
            f"There is no percentile {percentile:g}.",
            code="invalid-percentile",
            fix="give --percentile 90 or 99",
        )
    found = find_family(family)
    if min_accuracy is not None and not found.accuracy:
        raise DeployError(
            f"No accuracy of {found.title} was published.",
            code="accuracy-not-published",
            fix="leave out --min-accuracy",
        )
    phi_grid(phi_step, found.phi_range)  # refuses a step that makes none, before anything is measured
    absent = gpu if isinstance(gpu, Gpu) else absent_gpu(gpu)
    clock: Clock
    if absent is not None:
        if Path(folder) != DEFAULT_FOLDER:
            raise DeployError(
                f"A {absent.name} that is not here is not measured, and nothing is kept in {folder}.",
                code="option-not-applicable",
                fix="leave out --folder; --records reads what was measured on one",
            )
        paths = [records] if isinstance(records, str | Path) else records
        clock = Predicted(absent, percentile=percentile, records=map(Path, paths))
    elif records:
        raise DeployError(
            "This machine is measured: records of others say nothing of it.",
            code="option-not-applicable",
            fix="leave out --records; --folder says where its own are kept",
        )
    else:
        clock = Measured(str(gpu), percentile=percentile, folder=Path(folder), progress=progress)
    asked = clock.compared if precision == "best" else (clock.precision_for(precision),)
    fits = [
        _fit(
            Question(
                clock=clock,
                gpu=absent,
                precision=each,
                compared=asked,
                family=found,
                axis=axis,
                goal=goal,
                batch=None if batch == "auto" else batch,
                phi_step=phi_step,
                percentile=percentile,
                optimistic=optimistic,
            )
        )
        for each in asked
    ]
    fits.sort(key=_merit)
    remarks: list[str] = []
    if precision == "best" and absent is not None:
        for each in PREDICTED_PRECISIONS:
            if each not in asked:
                unknown = f"too little is known of the {clock.title} for it"
                remarks.append(f"{each.upper()} was not compared: {unknown}.")
    if records and not any(each.latency.evidence == "recorded" for fit in fits for each in fit.candidates):
        remarks.append("No record is of a network, precision and batch that was looked at: all is predicted.")
    if optimistic and clock.measures and min_images_per_s is None:
        remarks.append("Of a measured latency the percentile decides: optimistic or not makes no difference.")
    if percentile != DEFAULT_PERCENTILE and not any(
        each.latency.evidence != "predicted" for fit in fits for each in fit.candidates
    ):
        remarks.append(
            f"Predictions are of the usual latency: of p{percentile:g} they say nothing, and measuring does."
        )
    best = replace(fits[-1], remarks=(*fits[-1].remarks, *remarks))
    return best if len(fits) == 1 else replace(best, rival=fits[0])


def _require_known(*, batch: object, precision: object, axis: object) -> None:
    if batch not in (None, "auto") and not (isinstance(batch, int) and 1 <= batch <= MAX_BATCH):
        raise DeployError(
            f"A batch of {batch} is no whole number from 1 to {MAX_BATCH}.",
            code="invalid-batch",
            fix="give --batch 1, or auto",
        )
    if precision not in (None, "best", *get_args(Precision)):
        raise DeployError(
            f"There is no precision {precision}.",
            code="unknown-precision",
            fix=f"take one of {', '.join(get_args(Precision))}, best",
        )
    if axis not in (None, *AXES):
        raise DeployError(
            f"There is no axis {axis}.",
            code="unknown-axis",
            fix=f"take one of {', '.join(AXES)}, or leave it out for all together",
        )


def _merit(fit: Fit) -> tuple[float, float]:
    if fit.chosen is None:
        return (float("-inf"), fit.nearest_miss.images_per_s)
    return (fit.chosen.phi, fit.chosen.images_per_s)


def _fit(question: Question) -> Fit:
    members: dict[float, Member] = {}
    found: dict[float, Candidate] = {}

    def fits(phi: float) -> bool:
        if phi not in found:
            members[phi] = _member(question, phi)
            found[phi] = candidate_at(question, phi, members[phi])
        return not {"latency", "throughput", "memory"} & set(found[phi].misses)

    grid = phi_grid(question.phi_step, question.family.phi_range)
    reachable, cut = _reachable(question, grid)
    if question.clock.measures:
        bisect_largest(_accurate(question, reachable), fits)
    else:
        coarse = reachable if question.phi_step >= 1 else [phi for phi in reachable if phi == int(phi)]
        fitting = max((phi for phi in coarse if fits(phi)), default=None)
        for phi in at_the_edge(reachable, coarse, fitting):
            fits(phi)
    candidates = tuple(found[phi] for phi in sorted(found))
    fit = Fit(
        family=question.family.title,
        metric=question.family.metric,
        gpu=question.clock.title,
        axis=question.axis,
        goal=question.goal,
        percentile=question.percentile,
        candidates=candidates,
        optimistic=question.optimistic,
        remarks=(
            *cut,
            *_falls(question, candidates),
            *_rough(candidates, question.percentile),
            *_published_otherwise(candidates),
        ),
    )
    if fit.chosen is not None:
        return fit
    miss = fit.nearest_miss
    return replace(fit, advice=tuple(advise(question, miss, members[miss.phi], candidates)))


def _member(question: Question, phi: float) -> Member:
    compound = choose_member(question.family, phi=phi)
    if question.axis is None:
        return compound
    return single_axis_member(question.family, question.axis, macs=compound.network().macs)


def _accurate(question: Question, phis: Sequence[float]) -> list[float]:
    """What is published need not be measured.

    Raises:
        NothingFitsError: none is accurate enough.
    """
    known = {phi: published_accuracy(question.family, phi, _member(question, phi)) for phi in phis}
    accurate = [phi for phi, found in known.items() if question.goal.is_accurate_enough(found)]
    if not accurate:
        most = max((found for found in known.values() if found is not None), default=None)
        nearest = "of none it is known" if most is None else f"the nearest has {floor_percent(most)} %"
        raise NothingFitsError(
            f"Nothing fits, and nothing was measured: no {question.family.title} is known to be so accurate; "
            f"{nearest}.",
            code="nothing-fits",
            fix="leave out --min-accuracy" if most is None else f"give --min-accuracy {floor_percent(most)}%",
        )
    return accurate


def _reachable(question: Question, grid: Sequence[float]) -> tuple[Sequence[float], tuple[str, ...]]:
    """The phis that one axis alone can match in work, with a sentence where these are not all."""
    if question.axis is None:
        return grid, ()

    def can(phi: float) -> bool:
        try:
            _member(question, phi)
        except DeployError:
            return False
        return True

    count = bisect_right(range(len(grid)), False, key=lambda at: not can(grid[at]))
    if count == len(grid):
        return grid, ()
    return grid[:count], (
        f"No {question.axis} alone has as much work as phi {format_phi(grid[count])}: it and those above "
        "were left out.",
    )


def _rough(candidates: Sequence[Candidate], percentile: float) -> tuple[str, ...]:
    rough = [format_phi(each.phi) for each in candidates if each.latency.is_rough]
    if not rough:
        return ()
    return (
        f"Too few samples to bound p{percentile:g} of phi {', '.join(rough)}: take a lower --percentile, or "
        "measure longer with deploykit bench.",
    )


def _published_otherwise(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """What figures the predictions rest on, where that is not what they are asked for."""
    unpublished = {each.precision for each in candidates if not each.latency.has_figures}
    if unpublished:
        which = ", ".join(sorted(unpublished)).upper()
        return (f"No {which} latency was published: predictions of it rest on those of other precisions.",)
    if not any(each.precision == "int8" and each.latency.evidence == "predicted" for each in candidates):
        return ()
    return (
        "INT8 is predicted for TensorRT with every layer in INT8, as published; what TensorRT-RTX builds "
        "keeps depthwise convolutions in FP16 and gains less.",
    )


def _falls(question: Question, candidates: Sequence[Candidate]) -> Iterator[str]:
    """Where latency surely did not rise with phi at one batch, as the search takes for granted."""
    for small, large in pairwise(candidates):
        one, other = small.latency, large.latency
        if small.batch != large.batch or one.low_ms <= question.decisive_ms(other):
            continue
        first, second = format_phi(small.phi), format_phi(large.phi)
        if one.evidence != other.evidence:
            yield (
                f"phi {first}, {one.evidence}, is slower than phi {second}, {other.evidence}: measure both "
                "before relying on either."
            )
        elif one.evidence != "predicted":
            yield (
                f"Latency fell from phi {first} to {second}: measured again, another phi may be the largest "
                "that fits."
            )
