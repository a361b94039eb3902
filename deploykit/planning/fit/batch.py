"""At which batch a network is asked about, where that is free."""

from collections.abc import Sequence

from deploykit.networks.member import Member
from deploykit.planning.fit.answer import Candidate
from deploykit.planning.fit.grid import BATCHES
from deploykit.planning.fit.question import Question

_RISES = 1.02  # less is noise
_HOPE = 1.5  # times that throughput may end above what the last batches promise


def candidate_at(question: Question, phi: float, member: Member) -> Candidate:
    """The network at the batch asked for; where it is free, at the one that suits best.

    Of those that hold latency and memory that is the largest; with a throughput to reach the smallest that
    does, or else the one that comes nearest; what is measured grows as long as the throughput does so, and
    may reach its target.
    Where none holds them, a single image.

    Raises:
        DeployError: too little is known of the GPU.
    """
    if question.batch is not None:
        return question.answer(phi, member, question.batch)
    wants_rate = question.goal.min_images_per_s is not None
    tried: list[Candidate] = []
    for batch in BATCHES:
        tried.append(question.answer(phi, member, batch))
        if not _holds(tried[-1]) or (wants_rate and "throughput" not in tried[-1].misses):
            break
        if question.clock.measures and wants_rate and not (_rises(tried) and _may_reach(question, tried)):
            break
    holding = [each for each in tried if _holds(each)]
    if not holding:
        return tried[0]
    if not wants_rate:
        return holding[-1]
    return max(holding, key=lambda each: question.decisive_images_per_s(each.latency))


def _rises(tried: Sequence[Candidate]) -> bool:
    """Whether a larger batch made more of the time."""
    return len(tried) < 2 or tried[-1].images_per_s > _RISES * tried[-2].images_per_s


def _may_reach(question: Question, tried: Sequence[Candidate]) -> bool:
    """Whether larger batches, each image of which takes what one more took last, come near the target."""
    if len(tried) < 2:
        return True
    small, large = (each.batch / each.images_per_s for each in tried[-2:])
    more_s = (large - small) / (tried[-1].batch - tried[-2].batch)
    return more_s <= 0 or question.goal.is_productive_enough(_HOPE / more_s)


def _holds(candidate: Candidate) -> bool:
    return not {"latency", "memory"} & set(candidate.misses)
