"""What would make something fit where nothing does."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from deploykit.gpu_catalog.gpus import Gpu, known_gpus
from deploykit.networks.member import Member
from deploykit.networks.scaling import format_phi
from deploykit.planning.fit.answer import Candidate
from deploykit.planning.fit.batch import candidate_at
from deploykit.planning.fit.grid import BATCHES
from deploykit.planning.fit.question import Question
from deploykit.planning.latency_source import Predicted
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

_NAMED = 3  # GPUs


def advise(
    question: Question, miss: Candidate, member: Member, all_of_them: Sequence[Candidate]
) -> Iterator[str]:
    """Sentences, each of a change that was tried and fits; of this machine what was not tried.

    Args:
        miss: the nearest one, of that member.
        all_of_them: that were looked at.
    """
    if "accuracy" in miss.misses:
        yield _on_accuracy(question, all_of_them)
        return
    wanted = f"for phi {format_phi(miss.phi)}"
    memory = f"--max-memory {math.ceil(miss.memory_bytes / 1e6)}MB"
    if miss.misses == ("memory",):
        yield f"{memory} is enough, {wanted}."
    if question.gpu is None:
        yield from _untried(question, miss, memory)
        return

    def fits(**changes: Any) -> bool:
        return _fits(replace(question, **changes), miss.phi, member)

    if question.batch is not None:
        others = sorted(BATCHES, key=lambda size: abs(math.log(size / miss.batch)))
        batch = next((size for size in others if size != miss.batch and fits(batch=size)), None)
        if batch is not None:
            yield f"--batch {batch} is predicted to fit, {wanted}."
    for precision in _not_compared(question):
        if fits(precision=precision):
            yield f"--precision {precision} is predicted to fit, {wanted}."
    if "memory" not in miss.misses:
        yield _on_gpus(question, miss, member)
    elif miss.misses != ("memory",):
        roomy = replace(question.goal, max_memory_bytes=1e6 * math.ceil(miss.memory_bytes / 1e6))
        yield _on_gpus(replace(question, goal=roomy), miss, member, given=memory)


def _not_compared(question: Question) -> list[Precision]:
    return [each for each in question.clock.compared if each not in question.compared]


def _fits(question: Question, phi: float, member: Member) -> bool:
    try:
        return candidate_at(question, phi, member).fits
    except DeployError:  # too little is known of the GPU
        return False


def _on_accuracy(question: Question, candidates: Sequence[Candidate]) -> str:
    """Of what is as accurate as nobody published, the most accurate that fits otherwise."""
    otherwise = [each for each in candidates if each.misses == ("accuracy",) and each.accuracy is not None]
    nobody = f"No {question.family.title} is known to be so accurate"
    if not otherwise:
        return f"{nobody}."
    best = max(otherwise, key=lambda each: (each.accuracy or 0, each.phi))
    percent = floor_percent(best.accuracy or 0)
    return f"{nobody}; --min-accuracy {percent}% fits, with phi {format_phi(best.phi)}."


def floor_percent(accuracy: float) -> str:
    """A fraction in percent, with one decimal at most, and no more than it is."""
    return f"{math.floor(1000 * accuracy + 1e-9) / 10:g}"


def _untried(question: Question, miss: Candidate, memory: str) -> Iterator[str]:
    """Of this machine, where trying takes minutes."""
    smaller = miss.batch > 1 and question.batch is not None
    with_memory = f" with {memory}" if "memory" in miss.misses else ""
    changes = [
        *(["a smaller --batch"] if smaller else []),
        *(f"--precision {each}" for each in _not_compared(question)),
        *([f"a faster machine{with_memory}"] if {"latency", "throughput"} & set(miss.misses) else []),
    ]
    if changes:
        yield f"Not tried: {' or '.join([', '.join(changes[:-1]), changes[-1]] if changes[1:] else changes)}."


def _on_gpus(question: Question, miss: Candidate, member: Member, *, given: str | None = None) -> str:
    def asked_of(gpu: Gpu) -> Question:
        return replace(question, gpu=gpu, clock=Predicted(gpu, percentile=question.percentile))

    fitting = {
        gpu.name: candidate_at(asked_of(gpu), miss.phi, member)
        for gpu in known_gpus()
        if gpu != question.gpu and _fits(asked_of(gpu), miss.phi, member)
    }
    if not fitting:
        either = "" if given is None else f", with {given} either"
        return f"No GPU that is known is predicted to fit{either}."
    just = sorted(fitting, key=lambda name: -question.decisive_ms(fitting[name].latency))
    names = ", ".join(just[:_NAMED])
    predicted = "Predicted" if given is None else f"With {given}, predicted"
    others = " and others" if just[_NAMED:] else ""
    return f"{predicted} to fit, for phi {format_phi(miss.phi)}: {names}{others}."
