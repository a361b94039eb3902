"""Suggest changes that make something fit when nothing does."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from deploykit.gpu_catalog.gpus import Gpu, known_gpus
from deploykit.networks.member import Member
from deploykit.networks.scaling import format_phi
from deploykit.planning.fit.batch_choice import evaluate_member
from deploykit.planning.fit.phi_grid import FREE_BATCHES
from deploykit.planning.fit.request import FitRequest
from deploykit.planning.fit.result import Candidate
from deploykit.planning.predicted_latency import PredictedLatency
from deploykit.util.errors import DeployError

_NAMED_GPUS = 3  # in one sentence


def suggest_changes(
    request: FitRequest, miss: Candidate, member: Member, candidates: Sequence[Candidate]
) -> Iterator[str]:
    """Yield sentences, each about one change that was tried and fits.

    On this machine trying takes minutes, so changes are named without being tried.

    Args:
        request: The request that nothing fits.
        miss: The nearest miss.
        member: The network of the nearest miss.
        candidates: Every candidate that was considered.
    """
    if "accuracy" in miss.misses:
        yield _suggest_accuracy(request, candidates)
        return
    goal = f"for phi {format_phi(miss.phi)}"
    memory_mb = math.ceil(miss.memory_bytes / 1e6)
    memory_option = f"--max-memory {memory_mb}MB"
    if miss.misses == ("memory",):
        yield f"{memory_option} is enough, {goal}."
    if request.gpu is None:
        yield from _list_untried(request, miss, memory_option)
        return
    batch = _find_fitting_batch(request, miss, member)
    if batch is not None:
        yield f"--batch {batch} is predicted to fit, {goal}."
    for precision in request.untried_precisions:
        if _fits(replace(request, precision=precision), miss.phi, member):
            yield f"--precision {precision} is predicted to fit, {goal}."
    if "memory" not in miss.misses:
        yield _suggest_gpus(request, miss, member)
    elif miss.misses != ("memory",):
        targets = replace(request.targets, max_memory_bytes=1e6 * memory_mb)
        yield _suggest_gpus(replace(request, targets=targets), miss, member, with_option=memory_option)


def floor_percent(accuracy: float) -> str:
    """Return a fraction in percent, rounded down to one decimal."""
    return f"{math.floor(1000 * accuracy + 1e-9) / 10:g}"


def _fits(request: FitRequest, phi: float, member: Member) -> bool:
    try:
        return evaluate_member(request, phi, member).fits
    except DeployError:  # the GPU's facts do not suffice
        return False


def _find_fitting_batch(request: FitRequest, miss: Candidate, member: Member) -> int | None:
    """Return the fitting batch size nearest to the requested one; None if the batch is free already."""
    if request.batch is None:
        return None
    others = sorted(FREE_BATCHES, key=lambda size: abs(math.log(size / miss.batch)))
    fitting = (
        size
        for size in others
        if size != miss.batch and _fits(replace(request, batch=size), miss.phi, member)
    )
    return next(fitting, None)


def _suggest_accuracy(request: FitRequest, candidates: Sequence[Candidate]) -> str:
    """Name the highest accuracy that fits, if the requested one was never published."""
    fitting = [each for each in candidates if each.misses == ("accuracy",) and each.accuracy is not None]
    sentence = f"No {request.family.title} has a published accuracy that high"
    if not fitting:
        return f"{sentence}."
    best = max(fitting, key=lambda each: (each.accuracy or 0, each.phi))
    percent = floor_percent(best.accuracy or 0)
    return f"{sentence}; --min-accuracy {percent}% fits, with phi {format_phi(best.phi)}."


def _list_untried(request: FitRequest, miss: Candidate, memory_option: str) -> Iterator[str]:
    with_memory = f" with {memory_option}" if "memory" in miss.misses else ""
    changes = [
        *(["a smaller --batch"] if miss.batch > 1 and request.batch is not None else []),
        *(f"--precision {each}" for each in request.untried_precisions),
        *([f"a faster machine{with_memory}"] if {"latency", "throughput"} & set(miss.misses) else []),
    ]
    if changes:
        yield f"Not tried: {' or '.join([', '.join(changes[:-1]), changes[-1]] if changes[1:] else changes)}."


def _suggest_gpus(
    request: FitRequest, miss: Candidate, member: Member, *, with_option: str | None = None
) -> str:
    """Name the slowest known GPUs that fit.

    Args:
        request: With the targets to meet.
        miss: The nearest miss.
        member: Its network.
        with_option: The option that the request was changed by, if any.
    """
    fitting = {
        gpu.name: evaluate_member(_move_to(request, gpu), miss.phi, member)
        for gpu in known_gpus()
        if gpu != request.gpu and _fits(_move_to(request, gpu), miss.phi, member)
    }
    if not fitting:
        either = "" if with_option is None else f", even with {with_option}"
        return f"No known GPU is predicted to fit{either}."
    slowest = sorted(fitting, key=lambda name: -request.decisive_ms(fitting[name].latency))
    names = ", ".join(slowest[:_NAMED_GPUS])
    others = " and others" if slowest[_NAMED_GPUS:] else ""
    predicted = "Predicted" if with_option is None else f"With {with_option}, predicted"
    return f"{predicted} to fit, for phi {format_phi(miss.phi)}: {names}{others}."


def _move_to(request: FitRequest, gpu: Gpu) -> FitRequest:
    source = PredictedLatency(gpu, percentile=request.percentile)
    return replace(request, gpu=gpu, latency_source=source)
