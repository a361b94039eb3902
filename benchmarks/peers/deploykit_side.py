"""Deploykit's own side, through its command line: all that the comparisons know of it."""

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from peers.contenders import Contender

AUTO = "auto"
METHODS = (AUTO, "max", "percentile", "peak-percentile", "entropy", "mse")
POLICIES = ("pointwise", "bandwidth", "all-conv")
DEFAULT_POLICY = POLICIES[0]

CLI = (sys.executable, "-m", "deploykit")


def deploykit(
    model: Path,
    data: Path,
    *,
    methods: Iterable[str] = METHODS,
    policies: Iterable[str] = POLICIES,
    rounds: int = 1,
    on: str = "",
) -> Iterator[Contender]:
    """Every method with every placement policy; calibrating is the same for all policies.

    Args:
        on: what the data are, where that is worth saying.
    """
    for method in methods:
        for policy in policies:
            yield Contender(
                name=f"deploykit {method}{on}",
                placement=policy,
                command=partial(_calibrate, model, data, method),
                finish=partial(_quantize, model, policy),
                rounds=1 if method == AUTO else rounds,  # it tries ten methods, half a minute of work
            )


def _calibrate(model: Path, data: Path, method: str, count: int, output: Path) -> list[str]:
    what = ("--onnx", str(model), "--data", str(data), "--images", str(count))
    return [*CLI, "calibrate", *what, "--method", method, "-o", str(output)]


def _quantize(model: Path, policy: str, ranges: Path, output: Path) -> list[str]:
    what = ("--onnx", str(model), "--ranges", str(ranges), "--int8-policy", policy)
    return [*CLI, "quantize", *what, "-o", str(output)]
