"""How `deploykit fit` refuses wrong input."""

import pytest


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--gpu", "T4"), "target-missing"),
        (("--gpu", "T4", "--max-latency", "10"), "unit-missing"),
        (("--gpu", "T4", "--max-latency", "0ms"), "invalid-target"),
        (("--gpu", "T4", "--max-latency", "-1ms"), "invalid-latency-target"),
        (("--gpu", "T4", "--max-latency", "1ms", "--min-accuracy", "most"), "invalid-accuracy-target"),
        (
            ("--gpu", "T4", "--max-latency", "1ms", "--min-accuracy", "100%"),
            "invalid-accuracy-target",
        ),
        (("--gpu", "T4", "--max-latency", "1ms", "--max-memory", "4"), "invalid-memory-target"),
        (("--gpu", "T4", "--max-latency", "1ms", "--batch", "some"), "invalid-batch"),
        (("--gpu", "T4", "--max-latency", "1ms", "--max-memory", ""), "invalid-memory-target"),
        (("--gpu", "T4", "--max-latency", "1ms", "--min-throughput", ""), "invalid-throughput-target"),
        (("--gpu", "T4", "--max-latency", "1ms", "--min-accuracy", ""), "invalid-accuracy-target"),
        (("--gpu", "T4", "--max-latency", ""), "invalid-latency-target"),
        (("--gpu", "T4", "--max-latency", "1ms", "--phi-step", "0"), "invalid-phi-step"),
        (("--gpu", "T4", "--max-latency", "1ms", "--plot", "--json"), "option-conflict"),
        (("--gpu", "cpu", "--max-latency", "1ms", "--folder", "/proc/x"), "output-unwritable"),
        (("--gpu", "T4,", "--max-latency", "1ms"), "unknown-gpu"),
        (("--gpu", "T4,L4", "--max-latency", "1ms", "--export"), "option-conflict"),
        (
            ("--gpu", "T4", "--max-latency", "1ms", "--gpu-file", "a", "--gpu-file", "b"),
            "option-repeated",
        ),
        (("--gpu", "T4", "--max-latency", "1ms", "--plot", "a.jpg"), "invalid-output-name"),
        (("--gpu", "T4", "--max-latency", "1ms", "--plot", "/proc/a.png"), "output-unwritable"),
        (("--gpu", "T4", "--max-latency", "1ms", "--records", "none.json"), "record-not-found"),
        (("--gpu", "cpu", "--max-latency", "1ms", "--records", "a.json"), "option-not-applicable"),
    ],
)
def test_mistakes_are_refused(run, options, code):
    result = run("fit", *options)
    assert (result.status, result.code) == (2, code)
    assert "Traceback" not in result.err
