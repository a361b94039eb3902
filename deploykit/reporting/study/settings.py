"""Check a study's arguments and resolve their defaults."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploykit.engine.shapes import MAX_BATCH, BatchRange
from deploykit.engine.targets import LOCAL, Target, resolve_precision, resolve_target
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import find_family
from deploykit.util.errors import DeployError
from deploykit.util.local_gpu import local_gpu
from deploykit.util.types import Precision

CPU_BATCHES, GPU_BATCHES = (1, 2, 4, 8), (1, 8, 32, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """What a study measures, and where.

    Attributes:
        batches: Batch sizes for throughput.
        threads: CPU threads; None for one per core.
    """

    folder: Path
    target: Target
    family: Family
    phis: tuple[float, ...]
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    threads: int | None

    @property
    def batch_ranges(self) -> tuple[BatchRange, ...]:
        """One optimization profile per batch size, batch 1 included."""
        return tuple(BatchRange(min=size, opt=size, max=size) for size in sorted({1, *self.batches}))


def resolve_settings(
    folder: Path,
    *,
    gpu: str,
    family: str,
    phis: Sequence[float],
    precisions: Sequence[Precision],
    batches: Sequence[int],
    threads: int | None,
) -> StudySettings:
    """Return the settings of a study; its docstring describes the arguments.

    Raises:
        DeployError: The GPU is not in this machine, or an argument is out of range.
    """
    target = _find_target(gpu)
    if threads is not None and not target.on_cpu:
        raise DeployError(
            f"--threads applies to CPUs only, not to {target.title}.",
            code="option-not-applicable",
            fix="leave out --threads",
        )
    resolved_precisions = tuple(precisions) or (("fp32", "int8") if target.on_cpu else ("fp16", "int8"))
    for precision in resolved_precisions:
        resolve_precision(target, precision)
    resolved_batches = tuple(batches) or (CPU_BATCHES if target.on_cpu else GPU_BATCHES)
    if invalid := [size for size in resolved_batches if not 1 <= size <= MAX_BATCH]:
        raise DeployError(
            f"A batch of {invalid[0]} is not between 1 and {MAX_BATCH}.",
            code="invalid-batch",
            fix="give --batch 1,8",
        )
    found_family = find_family(family)
    low, high = found_family.phi_range
    if invalid_phis := [phi for phi in phis if not low <= phi <= high]:
        raise DeployError(
            f"A phi of {invalid_phis[0]:g} is not between {low:g} and {high:g}, the range of "
            f"{found_family.title}.",
            code="invalid-phi",
            fix=f"give --phi from {low:g} to {high:g}",
        )
    return StudySettings(
        folder=folder,
        target=target,
        family=found_family,
        phis=tuple(phis or found_family.default_phis),
        precisions=resolved_precisions,
        batches=resolved_batches,
        threads=threads,
    )


def _find_target(gpu: str) -> Target:
    """Return the target that a name means, if it is on this machine."""
    here = local_gpu()
    if gpu.lower() == LOCAL and here is None:
        raise DeployError(
            "A study measures on this machine, and no NVIDIA GPU was found.",
            code="gpu-not-found",
            fix="give --gpu cpu, or run deploykit doctor to see what is missing",
        )
    target = resolve_target(gpu)
    if target.on_cpu or (here is not None and target.runs_on(here)):
        return target
    other = "--gpu cpu" if here is None else "--gpu local"
    raise DeployError(
        f"A study measures on this machine, which is not {target.title}.",
        code="gpu-mismatch",
        fix=f"give {other}, or run the study on that machine",
    )
