"""The ways to calibrate that benchmarks/calibration.py sets side by side, deploykit's own aside."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from peers.processes import MODELOPT_PYTHON, Cost, forward, measure, modelopt_int8, onnxruntime_int8

YARDSTICK = "plain forward pass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to calibrate.

    Attributes:
        placement: which layers it quantizes, in words.
        command: (number of images, output file) -> command line.
        finish: (what command wrote, output file) -> command line that makes the quantized model of it; None
            where command has done so.
        rounds: how often it is measured, where it takes no longer than seconds.
        grows: it may need more memory or time than there is, so that many images are run only where two
            smaller runs say they can be.
    """

    name: str
    placement: str = "none"
    command: Callable[[int, Path], list[str]]
    finish: Callable[[Path, Path], list[str]] | None = None
    rounds: int = 1
    grows: bool = False


def yardstick(model: Path, data: Path, *, rounds: int) -> Contender:
    """The model run over the images, and nothing else."""
    return Contender(
        name=YARDSTICK,
        command=lambda count, _: forward(model, data, count),
        rounds=rounds,
    )


def onnxruntime(
    model: Path, data: Path, methods: Iterable[str], nodes: Path | None = None
) -> Iterator[Contender]:
    """ONNX Runtime's methods, on the nodes a file lists, or on every convolution and the classifier."""
    for method in methods:
        yield Contender(
            name=f"ONNX Runtime {method}",
            placement="convolutions and classifier" if nodes is None else nodes.name,
            command=partial(onnxruntime_int8, model, data, method, nodes=nodes),
            grows=method != "minmax",  # the others keep every activation of every image in memory
        )


def modelopt(model: Path, data: Path) -> Iterator[Contender]:
    """ModelOpt's methods; none where it is not installed."""
    if MODELOPT_PYTHON.exists():
        for method in ("max", "entropy"):
            yield Contender(
                name=f"ModelOpt {method}",
                placement="its own",
                command=partial(modelopt_int8, model, data, method),
                grows=method != "max",  # entropy takes a second an image at 224 px
            )


def run(contender: Contender, count: int, output: Path) -> Cost:
    """Makes the quantized model; the cost is that of command, and of finish too in written_*."""
    if contender.finish is None:
        return measure(contender.command(count, output))
    ranges = output.with_suffix(".ranges.json")
    first, second = measure(contender.command(count, ranges)), measure(contender.finish(ranges, output))
    return replace(
        first,
        written_s=first.seconds + second.seconds,
        written_cpu_s=first.cpu_seconds + second.cpu_seconds,
    )
