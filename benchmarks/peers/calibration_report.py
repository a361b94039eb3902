"""What benchmarks/calibration.py prints: costs and results side by side, and the ratios aimed at."""

from collections.abc import Iterable
from dataclasses import fields

from tables import heading, row

from peers.contenders import YARDSTICK
from peers.deploykit_side import AUTO
from peers.processes import MODELOPT_MISSING, MODELOPT_PYTHON, Cost
from peers.scores import COLUMNS, Scores

PROBE_IMAGES, FEW_IMAGES, MANY_IMAGES = 16, 64, 512

Costs = dict[tuple[str, int], Cost]
"""By contender and number of images; medians."""


def expected_cost(name: str, costs: Costs) -> Cost:
    """What MANY_IMAGES would take, on the line through PROBE_IMAGES and FEW_IMAGES."""
    low, high = costs[name, PROBE_IMAGES], costs[name, FEW_IMAGES]
    factor = (MANY_IMAGES - FEW_IMAGES) / (FEW_IMAGES - PROBE_IMAGES)
    ends = ((field.name, getattr(low, field.name), getattr(high, field.name)) for field in fields(Cost))
    return Cost(**{name: end + factor * (end - start) for name, start, end in ends})


def print_table(names: Iterable[str], costs: Costs, scores: dict[tuple[str, int], Scores]) -> None:
    """One Markdown table a number of images."""
    names = tuple(names)
    for count in (FEW_IMAGES, MANY_IMAGES):
        columns = ("seconds", "of a forward pass", "written", "CPU s", "peak GB", *COLUMNS)
        print(f"\n{heading(f'{count} images', *columns)}")
        for name in names:
            if (name, count) in costs:
                relative = costs[name, count].seconds / costs[YARDSTICK, count].seconds
                print(row(name, *_cells(costs[name, count], relative), *scores[name, count].cells()))
            else:
                print(row(name, _not_run(name, costs), *[""] * (len(columns) - 1)))
    if not MODELOPT_PYTHON.exists():
        print(f"\nModelOpt {MODELOPT_MISSING}.")


def _cells(cost: Cost, relative: float) -> tuple[str, ...]:
    return (
        f"{cost.seconds:.1f}",
        f"{relative:.2f}",
        f"{cost.written_s:.1f}",
        f"{cost.cpu_seconds:.1f}",
        f"{cost.peak_gb:.2f}",
    )


def _not_run(name: str, costs: Costs) -> str:
    if not {(name, PROBE_IMAGES), (name, FEW_IMAGES)} <= costs.keys():
        return "did not finish"
    expected = expected_cost(name, costs)
    return f"not run: would need about {expected.peak_gb:.1f} GB and {expected.seconds / 60:.0f} min"


def print_ratios(costs: Costs) -> None:
    """Deploykit's methods beside the yardstick, their own memory, and the peers' methods, with the aims."""
    print("\nSeconds, in brackets of the processor: what else runs on the machine disturbs those less.\n")
    for name in dict.fromkeys(name for name, _ in costs if name.startswith("deploykit ")):
        few, many = (name, FEW_IMAGES), (name, MANY_IMAGES)
        if name != f"deploykit {AUTO}":  # which tries all methods on images held out
            for own in (few, many):
                _print_ratio(costs, ("seconds", "cpu_seconds"), own, (YARDSTICK, own[1]), "at most 1.5")
        for peer, aim in (("ONNX Runtime percentile-99.99", 3), ("ModelOpt entropy", 10)):
            _print_ratio(costs, ("written_s", "written_cpu_s"), (peer, FEW_IMAGES), few, f"at least {aim}")
        _print_ratio(costs, ("peak_gb",), many, few, "at most 1.05")


def _print_ratio(
    costs: Costs, what: tuple[str, ...], above: tuple[str, int], below: tuple[str, int], aim: str
) -> None:
    if above in costs and below in costs:
        ratio, *others = (getattr(costs[above], each) / getattr(costs[below], each) for each in what)
        named = " / ".join(f"{name}, {count} images" for name, count in (above, below))
        brackets = "".join(f" ({other:.2f})" for other in others)
        print(f"- {what[0]}, {named}: {ratio:.2f}{brackets}, aim: {aim}")
