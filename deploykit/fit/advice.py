"""What would make something fit where nothing does."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from deploykit.architecture.member import Member
from deploykit.errors import DeployError
from deploykit.fit.answer import Candidate
from deploykit.fit.grid import BATCHES
from deploykit.fit.question import Question
from deploykit.latency import Predicted
from deploykit.predict.gpus import Gpu, known_gpus
from deploykit.scaling import phi_label
from deploykit.vocabulary import Precision

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
    wanted = f"for phi {phi_label(miss.phi)}"
    if miss.misses == ("memory",):
        yield f"--max-memory {math.ceil(miss.memory_bytes / 1e6)}MB is enough, {wanted}."
    if question.gpu is None:
        yield from _untried(question, miss)
        return

    def fits(precision: Precision, batch: int) -> bool:
        return _fits(replace(question, precision=precision), miss.phi, member, batch)

    others = sorted(BATCHES, key=lambda size: abs(math.log(size / miss.batch)))
    batch = next((size for size in others if size != miss.batch and fits(miss.precision, size)), None)
    if batch is not None:
        yield f"--batch {batch} is predicted to fit, {wanted}."
    if "int8" not in question.compared and fits("int8", miss.batch):
        yield f"--precision int8 is predicted to fit, {wanted}."
    if "memory" not in miss.misses:
        yield _on_gpus(question, miss, member)


def _fits(question: Question, phi: float, member: Member, batch: int) -> bool:
    try:
        return question.answer(phi, member, batch).fits
    except DeployError:  # too little is known of the GPU
        return False


def _on_accuracy(question: Question, candidates: Sequence[Candidate]) -> str:
    """Of what is as accurate as nobody published, the most accurate that fits otherwise."""
    otherwise = [each for each in candidates if each.misses == ("accuracy",) and each.accuracy is not None]
    nobody = f"No {question.family.title} is known to be so accurate"
    if not otherwise:
        return f"{nobody}."
    best = max(otherwise, key=lambda each: (each.accuracy or 0, each.phi))
    percent = math.floor(1000 * (best.accuracy or 0) + 1e-9) / 10
    return f"{nobody}; --min-accuracy {percent:g}% fits, with phi {phi_label(best.phi)}."


def _untried(question: Question, miss: Candidate) -> Iterator[str]:
    """Of this machine, where trying takes minutes."""
    smaller = miss.batch > 1 and question.batch is not None
    changes = [
        *(["a smaller --batch"] if smaller else []),
        *(["--precision int8"] if "int8" not in question.compared else []),
        *(["a faster machine"] if {"latency", "throughput"} & set(miss.misses) else []),
    ]
    if changes:
        yield f"Not tried: {' or '.join([', '.join(changes[:-1]), changes[-1]] if changes[1:] else changes)}."


def _on_gpus(question: Question, miss: Candidate, member: Member) -> str:
    def asked_of(gpu: Gpu) -> Question:
        return replace(question, gpu=gpu, clock=Predicted(gpu, percentile=question.percentile))

    fitting = {
        gpu.name: asked_of(gpu).answer(miss.phi, member, miss.batch)
        for gpu in known_gpus()
        if gpu != question.gpu and _fits(asked_of(gpu), miss.phi, member, miss.batch)
    }
    if not fitting:
        return "No GPU that is known is predicted to fit."
    just = sorted(fitting, key=lambda name: -question.decisive_ms(fitting[name].latency))
    names = ", ".join(just[:_NAMED])
    return (
        f"Predicted to fit, for phi {phi_label(miss.phi)}: {names}{' and others' if just[_NAMED:] else ''}."
    )
