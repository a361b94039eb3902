"""Advice if nothing fits: whoever follows a sentence gets a result that fits."""

import random
import re
from itertools import product

import pytest

from deploykit.planning.fit.fit import fit_phi


def test_advice_never_suggests_a_batch_that_exceeds_the_memory_limit():
    roomy, tight = (
        fit_phi("T4", min_images_per_s=1500, max_memory_bytes=limit).advice for limit in (1e9, 30e6)
    )
    assert roomy[0].startswith("--batch 8 ")
    assert not any("--batch" in sentence for sentence in tight)


def test_advice_names_a_batch_a_precision_and_gpus_that_fit():
    *others, faster = fit_phi("T4", max_latency_ms=3, batch=8).advice
    assert others == [
        "--batch 4 is predicted to fit, for phi 0.",
        "--precision int8 is predicted to fit, for phi 0.",
    ]
    assert fit_phi("T4", max_latency_ms=3, batch=4).chosen.phi >= 0
    assert fit_phi("T4", max_latency_ms=3, batch=8).chosen is None
    assert fit_phi("T4", max_latency_ms=3, batch=8, precision="int8").chosen.phi >= 0
    named = faster.removeprefix("Predicted to fit, for phi 0: ").removesuffix(" and others.").split(", ")
    assert len(named) == 3
    for gpu in named:
        assert fit_phi(gpu, max_latency_ms=3, batch=8).chosen.phi >= 0
    assert fit_phi("T4", max_latency_ms=0.01).advice == ("No known GPU is predicted to fit.",)


def _gpus(sentence):
    return re.search(r"(?<=for phi )[\d.]+: (.*)\.", sentence)[1].removesuffix(" and others").split(", ")


CHANGES = {
    r"^--batch (\d+) is": lambda found: {"batch": int(found)},
    r"^--precision (\w+) is": lambda found: {"precision": found},
    r"--max-memory (\d+)MB(?: is|, predicted)": lambda found: {"max_memory_bytes": 1e6 * int(found)},
    r"--min-accuracy ([\d.]+)% fits": lambda found: {"min_accuracy": float(found) / 100},
}


def _changed(arguments, sentence):
    """Return the arguments with which a sentence promises a result."""
    changes = [make(found[1]) for what, make in CHANGES.items() if (found := re.search(what, sentence))]
    assert len(changes) <= 1, sentence
    changed = arguments | (changes[0] if changes else {})
    if "redicted to fit, for phi" in sentence and "is predicted" not in sentence:
        return [changed | {"gpu": gpu} for gpu in _gpus(sentence)]
    return [changed] if changes else []


BATCHES = ({"batch": 1}, {"batch": 8}, {"batch": None, "min_images_per_s": 1000})
EVERY_CASE = tuple(
    product((0.01, 3, 9), (None, 12e6, 60e6), (None, 0.82, 0.9), BATCHES, ("fp32", "fp16", "int8"))
)
CASES = random.Random(0).sample(EVERY_CASE, 60)  # of 243, which would take minutes


@pytest.mark.parametrize(
    ("max_latency_ms", "max_memory_bytes", "min_accuracy", "batches", "precision"), CASES, ids=str
)
def test_every_suggested_change_fits(max_latency_ms, max_memory_bytes, min_accuracy, batches, precision):
    arguments = {"gpu": "T4", "max_latency_ms": max_latency_ms, "max_memory_bytes": max_memory_bytes}
    arguments |= {"min_accuracy": min_accuracy, "precision": precision, **batches}
    fit = fit_phi(**arguments)
    assert (fit.chosen is None) == (fit.advice != ())
    for sentence in fit.advice:
        changed = _changed(arguments, sentence)
        assert changed or sentence.startswith("No "), sentence
        for changed_arguments in changed:
            assert fit_phi(**changed_arguments).chosen is not None, sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"max_latency_ms": 2, "min_images_per_s": 3000, "batch": None},
            r"Predicted to fit, for phi 0: A100 .*",
        ),
        (
            {"max_latency_ms": 1.5, "min_images_per_s": 1000, "batch": None},
            r"--precision int8 is predicted to fit, for phi 0\.",
        ),
        (
            {"max_latency_ms": 10, "batch": 64, "max_memory_bytes": 8e6},
            r"With --max-memory 204MB, predicted to fit, for phi 0: .*",
        ),
        (
            {"max_latency_ms": 10, "min_accuracy": 0.84, "max_memory_bytes": 50e6},
            r"With --max-memory 120MB, predicted to fit, for phi 6: .*",
        ),
        (
            {"max_latency_ms": 0.01, "max_memory_bytes": 1e6},
            r"No known GPU is predicted to fit, even with --max-memory 14MB\.",
        ),
        ({"max_latency_ms": 2, "precision": "fp32"}, r"--precision fp16 is predicted to fit, for phi 0\."),
    ],
)
def test_a_change_that_fits_is_suggested(arguments, sentence):
    fit = fit_phi("T4", **arguments)
    assert any(re.fullmatch(sentence, each) for each in fit.advice), fit.advice


def test_a_precision_that_was_compared_is_not_suggested():
    assert any("int8" in sentence for sentence in fit_phi("T4", max_latency_ms=1.2).advice)
    compared = fit_phi("T4", max_latency_ms=0.7, precision="best")
    assert compared.chosen is None
    assert not any("int8" in sentence for sentence in compared.advice)
