"""A fit as text."""

from collections.abc import Iterator

from deploykit.cli.output import note, print_table
from deploykit.fit.answer import Candidate, Fit
from deploykit.scaling import phi_label


def print_fit(fit: Fit) -> None:
    """One GPU's: a line a phi, the edge marked, and the answer."""
    predicted = any(each.latency.evidence == "predicted" for each in fit.candidates)
    how = (
        "predicted for TensorRT, with a 90 % interval"
        if predicted
        else f"{fit.candidates[0].latency.evidence}, p{fit.percentile:g}"
    )
    print(f"{fit.family}{_axis(fit)} {fit.precision.upper()} on {fit.gpu}, {_batches(fit)}, {how}")
    _print_candidates(fit, predicted=predicted)
    print(_answer(fit))
    for sentence in _afterwards(fit):
        print(sentence)
    for sentence in fit.remarks:
        note(sentence)


def _afterwards(fit: Fit) -> Iterator[str]:
    """What else there is to say."""
    if fit.rival is not None:
        yield _why(fit, fit.rival)
    yield from fit.advice
    if fit.hoped_for is not None and not fit.optimistic:
        maybe, latency = phi_label(fit.hoped_for.phi), fit.hoped_for.latency
        yield (
            f"phi {maybe} may fit too: {latency.expected_ms:.2f} ms expected, up to {latency.high_ms:.2f} ms "
            "possible; measure it there with deploykit bench."
        )


def print_fits(fits: list[Fit]) -> None:
    """Several GPUs': a line each."""
    print(f"{fits[0].family}{_axis(fits[0])}: the largest phi that fits")
    rows = []
    for fit in fits:
        shown = fit.chosen or fit.nearest_miss
        answer = phi_label(shown.phi) if fit.chosen else "none"
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
    for remark, gpus in _by_remark(fits).items():
        note(remark if len(gpus) == len(fits) else f"{', '.join(gpus)}: {remark}")


def _by_remark(fits: list[Fit]) -> dict[str, list[str]]:
    """Which GPUs each is about."""
    found: dict[str, list[str]] = {}
    for fit in fits:
        for remark in fit.remarks:
            found.setdefault(remark, []).append(fit.gpu)
    return found


def _print_candidates(fit: Fit, *, predicted: bool) -> None:
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
                phi_label(each.phi),
                f"{each.scale.side_px} px",
                *((each.batch,) if free else ()),
                *_figures(each, predicted=predicted),
                _verdict(each, fit),
            )
            for each in fit.candidates
        ],
    )


def _verdict(each: Candidate, fit: Fit) -> str:
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


def _axis(fit: Fit) -> str:
    return "" if fit.axis is None else f", {fit.axis} alone"


def _batches(fit: Fit) -> str:
    sizes = sorted({each.batch for each in fit.candidates})
    return f"batch {sizes[0]}" if len(sizes) == 1 else f"batch {sizes[0]} to {sizes[-1]}"


def _answer(fit: Fit) -> str:
    if fit.chosen is not None:
        at = "" if len({each.batch for each in fit.candidates}) == 1 else f", at batch {fit.chosen.batch}"
        return f"largest phi that fits: {phi_label(fit.chosen.phi)}{at}"
    miss = fit.nearest_miss
    return f"nothing fits; the nearest miss is phi {phi_label(miss.phi)}: {_shortfall(miss, fit)}"


def _shortfall(miss: Candidate, fit: Fit) -> str:
    goal, latency = fit.goal, miss.latency
    allowed_mb = (goal.max_memory_bytes or 0) / 1e6
    decisive_ms = latency.expected_ms if fit.optimistic else latency.high_ms
    rate = latency.images_per_s if fit.optimistic else latency.low_images_per_s
    accuracy, wanted = _percent(miss.accuracy), _percent(goal.min_accuracy)
    words = {
        "latency": f"{decisive_ms:.2f} ms where {goal.max_latency_ms or 0:g} ms are wanted",
        "throughput": f"{rate:.0f} images/s where {goal.min_images_per_s or 0:g} are wanted",
        "memory": f"{miss.memory_bytes / 1e6:.0f} MB where {allowed_mb:.0f} are allowed",
        "accuracy": f"{fit.metric} of {accuracy} where {wanted} are wanted",
    }
    return ", ".join(words[target] for target in miss.misses)


def _percent(value: float | None) -> str:
    return "nobody knows what" if value is None else f"{100 * value:.1f} %"


def _why(fit: Fit, rival: Fit) -> str:
    better, other = fit.precision.upper(), rival.precision.upper()
    if fit.chosen is None:
        return f"{other} doesn't fit either."
    if rival.chosen is None:
        return f"{better}, because nothing fits in {other}."
    if fit.chosen.phi > rival.chosen.phi:
        return f"{better}, because {other} ends at phi {phi_label(rival.chosen.phi)}."
    rates = _rates(fit.chosen, rival.chosen)
    return f"{better}, because phi {phi_label(fit.chosen.phi)} is faster in it: {rates}."


def _rates(one: Candidate, other: Candidate) -> str:
    return f"{one.images_per_s:.0f} images/s, against {other.images_per_s:.0f}"
