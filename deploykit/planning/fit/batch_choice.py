"""Choose the batch size at which a network is judged."""

from collections.abc import Sequence

from deploykit.networks.member import Member
from deploykit.planning.fit.phi_grid import FREE_BATCHES
from deploykit.planning.fit.request import FitRequest
from deploykit.planning.fit.result import Candidate

_MIN_GAIN = 1.02  # a smaller rise of throughput is noise
_HEADROOM = 1.5  # throughput may end this many times above what the last batches promise


def evaluate_member(request: FitRequest, phi: float, member: Member) -> Candidate:
    """Return the network at the requested batch size, or at the best one if the batch is free.

    Without a throughput target the best batch is the largest that meets latency and memory. With one it is
    the smallest that meets all targets, or else the one with the highest throughput. Measurements continue as
    long as throughput rises and may still reach its target. If no batch meets latency and memory, the result
    is for a single image.

    Raises:
        DeployError: The GPU's facts do not suffice for a prediction.
    """
    if request.batch is not None:
        return request.judge(phi, member, request.batch)
    needs_throughput = request.targets.min_images_per_s is not None
    tried: list[Candidate] = []
    for batch in FREE_BATCHES:
        tried.append(request.judge(phi, member, batch))
        if not _is_usable(tried[-1]) or (needs_throughput and "throughput" not in tried[-1].misses):
            break
        is_measuring = request.latency_source.is_measuring
        if is_measuring and needs_throughput and not (_is_rising(tried) and _is_reachable(request, tried)):
            break
    usable = [each for each in tried if _is_usable(each)]
    if not usable:
        return tried[0]
    if not needs_throughput:
        return usable[-1]
    return max(usable, key=lambda each: request.decisive_images_per_s(each.latency))


def _is_rising(tried: Sequence[Candidate]) -> bool:
    """Whether the last batch increased throughput."""
    return len(tried) < 2 or tried[-1].images_per_s > _MIN_GAIN * tried[-2].images_per_s


def _is_reachable(request: FitRequest, tried: Sequence[Candidate]) -> bool:
    """Whether a larger batch may reach the throughput target.

    Each further image is assumed to take as long as one more image did in the last step.
    """
    if len(tried) < 2:
        return True
    smaller_s, larger_s = (each.batch / each.images_per_s for each in tried[-2:])
    per_image_s = (larger_s - smaller_s) / (tried[-1].batch - tried[-2].batch)
    return per_image_s <= 0 or request.targets.is_throughput_enough(_HEADROOM / per_image_s)


def _is_usable(candidate: Candidate) -> bool:
    return not {"latency", "memory"} & set(candidate.misses)
