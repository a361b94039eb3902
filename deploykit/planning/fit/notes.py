"""Notes on a fit: what to know before relying on its result."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from deploykit.networks.scaling import format_phi
from deploykit.planning.fit.request import FitRequest
from deploykit.planning.fit.result import Candidate, FitResult
from deploykit.planning.predicted_latency import GPU_PRECISIONS
from deploykit.util.types import Precision

DEFAULT_PERCENTILE = 90.0  # MLPerf's for its single-stream scenario


def note_candidates(request: FitRequest, candidates: Sequence[Candidate]) -> Iterator[str]:
    """Yield notes on the candidates of one precision."""
    yield from _note_falling_latency(request, candidates)
    yield from _note_rough_percentiles(request, candidates)
    yield from _note_missing_publications(candidates)


def note_options(
    request: FitRequest,
    results: Sequence[FitResult],
    *,
    precision: Precision | Literal["best"] | None,
    has_records: bool,
) -> Iterator[str]:
    """Yield notes on options that had no effect.

    Args:
        request: Any of the fit's requests; they differ in precision alone.
        results: One per compared precision.
        precision: The precision option as given.
        has_records: Whether records were given.
    """
    evidence = {each.latency.evidence for result in results for each in result.candidates}
    if precision == "best" and request.gpu is not None:
        for each in GPU_PRECISIONS:
            if each not in request.compared_precisions:
                gpu = request.latency_source.title
                yield f"{each.upper()} was not compared: the facts known about the {gpu} do not suffice."
    if has_records and "recorded" not in evidence:
        yield "No record matches a network, precision and batch considered here: every latency is predicted."
    is_measuring = request.latency_source.is_measuring
    if request.optimistic and is_measuring and request.targets.min_images_per_s is None:
        yield "--optimistic has no effect: for measured latencies the percentile decides."
    if request.percentile != DEFAULT_PERCENTILE and evidence <= {"predicted"}:
        yield (
            f"--percentile {request.percentile:g} has no effect: predictions are for typical latency. "
            "Measure to get a percentile."
        )


def _note_rough_percentiles(request: FitRequest, candidates: Sequence[Candidate]) -> Iterator[str]:
    rough = [format_phi(each.phi) for each in candidates if each.latency.is_rough]
    if rough:
        yield (
            f"There are too few samples to bound p{request.percentile:g} at phi {', '.join(rough)}: use a "
            "lower --percentile, or measure longer with deploykit bench."
        )


def _note_missing_publications(candidates: Sequence[Candidate]) -> Iterator[str]:
    """Yield a note if the predictions rest on published figures for something else."""
    unpublished = {each.precision for each in candidates if not each.latency.has_published_data}
    if unpublished:
        which = ", ".join(sorted(unpublished)).upper()
        yield f"No {which} latency was published: these predictions rest on figures at other precisions."
    elif any(each.precision == "int8" and each.latency.evidence == "predicted" for each in candidates):
        yield (
            "INT8 is predicted for TensorRT with every layer in INT8, as in the published figures. "
            "TensorRT-RTX engines keep depthwise convolutions in FP16 and gain less."
        )


def _note_falling_latency(request: FitRequest, candidates: Sequence[Candidate]) -> Iterator[str]:
    """Yield a note for each pair where latency fell as phi rose; the search assumes that it never does."""
    for small, large in pairwise(candidates):
        first, second = small.latency, large.latency
        if small.batch != large.batch or first.low_ms <= request.decisive_ms(second):
            continue
        if first.evidence != second.evidence:
            yield (
                f"phi {format_phi(small.phi)} ({first.evidence}) is slower than phi {format_phi(large.phi)} "
                f"({second.evidence}): measure both before relying on either."
            )
        elif first.evidence != "predicted":
            yield (
                f"Latency fell from phi {format_phi(small.phi)} to phi {format_phi(large.phi)}: a new "
                "measurement may choose another phi."
            )
