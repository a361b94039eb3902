"""The result of `fit` as text."""

from collections.abc import Iterator

from deploykit.cli.notes import note
from deploykit.cli.number_format import apart, as_given, beside
from deploykit.cli.output import print_table
from deploykit.networks.scaling import format_phi
from deploykit.planning.fit.result import Candidate, FitResult


def print_fit(fit: FitResult) -> None:
    """Print one GPU's result: a line per phi, the largest that fits marked, and the answer."""
    predicted = any(each.latency.evidence == "predicted" for each in fit.candidates)
    how = [*(["predicted for TensorRT, with a 90 % interval"] if predicted else []), *_percentiles([fit])]
    family = f"{fit.family}{_axis(fit)}{',' if fit.axis else ''}"
    print(f"{family} {fit.precision.upper()} on {fit.gpu}, {_batches(fit)}, {'; '.join(how)}")
    _print_candidates(fit, predicted=predicted)
    print(_answer(fit))
    for sentence in _afterwards(fit):
        print(sentence)
    for sentence in fit.notes:
        note(sentence, important=True)


def _afterwards(fit: FitResult) -> Iterator[str]:
    """Yield what follows the answer: the comparison of precisions, advice, and phis that may fit."""
    if fit.alternative is not None:
        yield _compare_precisions(fit, fit.alternative)
    yield from fit.advice
    if fit.borderline is not None and not fit.optimistic:
        yield _describe_borderline(fit, fit.borderline)


def _describe_borderline(fit: FitResult, borderline: Candidate) -> str:
    """Describe a phi whose expected figures meet the targets and whose intervals reach beyond them."""
    targets, latency = fit.targets, borderline.latency
    wanted_ms, wanted_rate = targets.max_latency_ms or 0, targets.min_images_per_s or 0
    predicted = latency.evidence == "predicted"
    seen = "expected" if predicted else latency.evidence
    words = {
        "latency": f"{beside(latency.expected_ms, wanted_ms, decimals=2)} ms {seen}, "
        f"up to {beside(latency.high_ms, wanted_ms, decimals=2)} ms possible",
        "throughput": f"{beside(latency.images_per_s, wanted_rate, decimals=0)} images/s {seen}, "
        f"down to {beside(latency.low_images_per_s, wanted_rate, decimals=0)} images/s possible",
    }
    stake = ", ".join(words[target] for target in borderline.misses)
    too = "" if fit.chosen is None else " too"
    how = "measure it there" if predicted else "measure it longer"
    return f"phi {format_phi(borderline.phi)} may fit{too}: {stake}; {how} with deploykit bench."


def _percentiles(fits: list[FitResult]) -> list[str]:
    """Return which percentile the measured and the recorded latencies are."""
    found = {each.latency.evidence for fit in fits for each in fit.candidates} - {"predicted"}
    return [f"{evidence}, p{fits[0].percentile:g}" for evidence in sorted(found)]


def print_fits(fits: list[FitResult]) -> None:
    """Print the results of several GPUs, a line each."""
    how = "; ".join(["the largest phi that fits", *_percentiles(fits)])
    print(f"{fits[0].family}{_axis(fits[0])}: {how}")
    rows = []
    for fit in fits:
        shown = fit.chosen or fit.nearest_miss
        answer = format_phi(shown.phi) if fit.chosen else "none"
        rows.append((fit.gpu, answer, fit.precision.upper(), shown.batch, *_figures(shown, predicted=True)))
    print_table(
        (
            "GPU",
            "phi",
            "precision",
            "batch",
            "latency",
            "interval",
            "throughput",
            "memory",
            fit.metric,
            "evidence",
        ),
        rows,
    )
    for fit in fits:
        nearest = () if fit.chosen else (_answer(fit),)
        for sentence in (*nearest, *_afterwards(fit)):
            print(f"{fit.gpu}: {sentence}")
    for sentence, gpus in _gpus_by_note(fits).items():
        note(sentence if len(gpus) == len(fits) else f"{', '.join(gpus)}: {sentence}", important=True)


def _gpus_by_note(fits: list[FitResult]) -> dict[str, list[str]]:
    """Return which GPUs each note is about."""
    found: dict[str, list[str]] = {}
    for fit in fits:
        for sentence in fit.notes:
            found.setdefault(sentence, []).append(fit.gpu)
    return found


def _print_candidates(fit: FitResult, *, predicted: bool) -> None:
    free = len({each.batch for each in fit.candidates}) > 1
    print_table(
        (
            "phi",
            "side",
            *(("batch",) if free else ()),
            "latency",
            *(("interval",) if predicted else ()),
            "throughput",
            "memory",
            fit.metric,
            "evidence",
            "fits",
        ),
        [
            (
                format_phi(each.phi),
                f"{each.scale.side_px} px",
                *((each.batch,) if free else ()),
                *_figures(each, predicted=predicted),
                _verdict(each, fit),
            )
            for each in fit.candidates
        ],
    )


def _verdict(each: Candidate, fit: FitResult) -> str:
    if each is fit.chosen:
        return "yes, the largest"
    if each.fits:
        return "yes"
    unknown = each.accuracy is None
    return (
        f"no: {', '.join('accuracy unknown' if unknown and it == 'accuracy' else it for it in each.misses)}"
    )


def _figures(each: Candidate, *, predicted: bool) -> tuple[str, ...]:
    latency = each.latency
    interval = f"{latency.low_ms:.2f}-{latency.high_ms:.2f} ms" if latency.evidence == "predicted" else ""
    return (
        f"{latency.expected_ms:.2f} ms",
        *((interval,) if predicted else ()),
        f"{each.images_per_s:.0f} images/s",
        f"{each.memory_bytes / 1e6:.0f} MB",
        "" if each.accuracy is None else f"{100 * each.accuracy:.1f} %",
        latency.evidence,
    )


def _axis(fit: FitResult) -> str:
    return "" if fit.axis is None else f", {fit.axis} alone"


def _batches(fit: FitResult) -> str:
    sizes = sorted({each.batch for each in fit.candidates})
    return f"batch {sizes[0]}" if len(sizes) == 1 else f"batch {sizes[0]} to {sizes[-1]}"


def _answer(fit: FitResult) -> str:
    if fit.chosen is not None:
        at = "" if len({each.batch for each in fit.candidates}) == 1 else f", at batch {fit.chosen.batch}"
        return f"largest phi that fits: {format_phi(fit.chosen.phi)}{at}"
    miss = fit.nearest_miss
    return f"nothing fits; the nearest miss is phi {format_phi(miss.phi)}: {_shortfall(miss, fit)}"


def _shortfall(miss: Candidate, fit: FitResult) -> str:
    targets, latency = fit.targets, miss.latency
    wanted_ms, wanted_rate = targets.max_latency_ms or 0, targets.min_images_per_s or 0
    allowed_mb, wanted_percent = (targets.max_memory_bytes or 0) / 1e6, 100 * (targets.min_accuracy or 0)
    decisive_ms = latency.expected_ms if fit.optimistic else latency.high_ms
    rate = latency.images_per_s if fit.optimistic else latency.low_images_per_s
    memory_mb = beside(miss.memory_bytes / 1e6, allowed_mb, decimals=0)
    accuracy = "unknown"
    if miss.accuracy is not None:
        accuracy = f"{beside(100 * miss.accuracy, wanted_percent, decimals=1)} %"
    words = {
        "latency": f"{beside(decisive_ms, wanted_ms, decimals=2)} ms (target: {as_given(wanted_ms)} ms)",
        "throughput": f"{beside(rate, wanted_rate, decimals=0)} images/s (target: {as_given(wanted_rate)})",
        "memory": f"{memory_mb} MB (limit: {as_given(allowed_mb)} MB)",
        "accuracy": f"{fit.metric} {accuracy} (target: {as_given(wanted_percent)} %)",
    }
    return ", ".join(words[target] for target in miss.misses)


def _compare_precisions(fit: FitResult, other_fit: FitResult) -> str:
    better, other = fit.precision.upper(), other_fit.precision.upper()
    if fit.chosen is None:
        return f"{other} doesn't fit either."
    if other_fit.chosen is None:
        return f"{better}, because nothing fits in {other}."
    if fit.chosen.phi > other_fit.chosen.phi:
        return f"{better}, because {other} ends at phi {format_phi(other_fit.chosen.phi)}."
    rates = _rates(fit.chosen, other_fit.chosen)
    return f"{better}, because phi {format_phi(fit.chosen.phi)} is faster in {better}: {rates}."


def _rates(one: Candidate, other: Candidate) -> str:
    first, second = apart(one.images_per_s, other.images_per_s, decimals=0)
    return f"{first} images/s against {second}"
