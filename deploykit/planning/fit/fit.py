"""Find the largest phi that meets its targets on a GPU."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from deploykit.gpu_catalog.gpus import Gpu
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import DEFAULT_FAMILY, find_family
from deploykit.networks.scaling import AXES, Axis
from deploykit.planning.fit.notes import DEFAULT_PERCENTILE, note_options
from deploykit.planning.fit.phi_grid import MAX_FIT_BATCH, phi_grid
from deploykit.planning.fit.phi_search import search_phi
from deploykit.planning.fit.request import FitRequest
from deploykit.planning.fit.result import FitResult
from deploykit.planning.fit.targets import Targets
from deploykit.planning.latency_source import DEFAULT_FOLDER, LatencySource, find_absent_gpu
from deploykit.planning.measured_latency import MeasuredLatency
from deploykit.planning.predicted_latency import PredictedLatency
from deploykit.util.errors import DeployError
from deploykit.util.progress import Progress, no_progress
from deploykit.util.types import Precision

Batch = int | Literal["auto"] | None
"""Images per batch; `auto` or None finds the batch that suits each network best."""
PrecisionChoice = Precision | Literal["best"] | None
"""A precision; `best` compares two, None means the default."""


def fit_phi(
    gpu: str | Gpu,
    *,
    max_latency_ms: float | None = None,
    min_images_per_s: float | None = None,
    max_memory_bytes: float | None = None,
    min_accuracy: float | None = None,
    family: str = DEFAULT_FAMILY,
    axis: Axis | None = None,
    batch: Batch = 1,
    precision: PrecisionChoice = None,
    phi_step: float = 1.0,
    percentile: float = DEFAULT_PERCENTILE,
    optimistic: bool = False,
    records: str | Path | Sequence[str | Path] = (),
    folder: str | Path = DEFAULT_FOLDER,
    progress: Progress = no_progress,
) -> FitResult:
    """Find the largest phi of a family that meets the targets.

    Args:
        gpu: A GPU, its name, `local` or `cpu`. A GPU in this machine is measured, with bisection over phi;
            for any other the latency under TensorRT is predicted.
        max_latency_ms: Largest latency of one batch. This or `min_images_per_s` is required.
        min_images_per_s: Smallest throughput of consecutive batches.
        max_memory_bytes: Largest size of weights and activations, see `planning.fit.memory`.
        min_accuracy: Smallest published accuracy, as a fraction.
        family: Name or file of a family, see `networks.families.registry`. EfficientNet has phi 0 to 7.
        axis: Scale this axis alone, to as much work as phi; default all three together.
        batch: Images per batch, from 1 to 65536; `auto` or None tries powers of two up to 256.
        precision: Default FP16, on a CPU FP32; `best` compares that with INT8.
        phi_step: Distance between the phis to consider, at least 0.05. Steps below 1 are considered only
            between the largest published member that fits and the next one.
        percentile: Which percentile of measured and recorded latencies decides, from 0 to 100.
        optimistic: Let the middle of predicted intervals decide, not the unfavourable end.
        records: Measurements from that GPU, files or folders; they take precedence over predictions.
        folder: Where measurements from this machine are kept; those already there are reused.
        progress: Called before each measurement.

    Raises:
        DeployError: The GPU is unknown, an argument is out of range, or no network to measure is accurate
            enough.
    """
    targets = Targets(
        max_latency_ms=max_latency_ms,
        min_images_per_s=min_images_per_s,
        max_memory_bytes=max_memory_bytes,
        min_accuracy=min_accuracy,
    )
    _require_valid(batch=batch, precision=precision, axis=axis, percentile=percentile)
    found_family = find_family(family)
    _require_accuracy(found_family, targets)
    phi_grid(phi_step, found_family.phi_range)  # rejects an invalid step before anything is measured
    absent = gpu if isinstance(gpu, Gpu) else find_absent_gpu(gpu)
    record_paths = [records] if isinstance(records, str | Path) else list(records)
    source: LatencySource
    if absent is not None:
        source = _predict_on(absent, percentile, record_paths, Path(folder))
    else:
        source = _measure_on(str(gpu), percentile, record_paths, Path(folder), progress)
    best_of = source.candidate_precisions
    compared = best_of if precision == "best" else (source.resolve_precision(precision),)
    request = FitRequest(
        latency_source=source,
        gpu=absent,
        precision=compared[0],
        compared_precisions=compared,
        family=found_family,
        axis=axis,
        targets=targets,
        batch=None if batch == "auto" else batch,
        phi_step=phi_step,
        percentile=percentile,
        optimistic=optimistic,
    )
    results = sorted((search_phi(replace(request, precision=each)) for each in compared), key=_rank)
    notes = note_options(request, results, precision=precision, has_records=bool(record_paths))
    best = replace(results[-1], notes=(*results[-1].notes, *notes))
    return best if len(results) == 1 else replace(best, alternative=results[0])


def _predict_on(gpu: Gpu, percentile: float, records: Sequence[str | Path], folder: Path) -> PredictedLatency:
    if folder != DEFAULT_FOLDER:
        raise DeployError(
            f"The {gpu.name} is not in this machine, so nothing is measured and kept in {folder}.",
            code="option-not-applicable",
            fix="leave out --folder; use --records to read measurements from that GPU",
        )
    return PredictedLatency(gpu, percentile=percentile, records=records)


def _measure_on(
    gpu: str, percentile: float, records: Sequence[str | Path], folder: Path, progress: Progress
) -> MeasuredLatency:
    if records:
        raise DeployError(
            "This machine is measured, so records from other machines do not apply.",
            code="option-not-applicable",
            fix="leave out --records; use --folder to reuse this machine's records",
        )
    return MeasuredLatency(gpu, percentile=percentile, folder=folder, progress=progress)


def _require_valid(*, batch: object, precision: object, axis: object, percentile: float) -> None:
    if batch not in (None, "auto") and not (isinstance(batch, int) and 1 <= batch <= MAX_FIT_BATCH):
        raise DeployError(
            f"A batch of {batch} is not a whole number from 1 to {MAX_FIT_BATCH}.",
            code="invalid-batch",
            fix="give --batch 1, or --batch auto",
        )
    if precision not in (None, "best", *get_args(Precision)):
        raise DeployError(
            f"{precision} is not a known precision.",
            code="unknown-precision",
            fix=f"give --precision {', '.join(get_args(Precision))} or best",
        )
    if axis not in (None, *AXES):
        raise DeployError(
            f"{axis} is not a scaling axis.",
            code="unknown-axis",
            fix=f"give --axis {', '.join(AXES)} or compound",
        )
    if not 0 < percentile <= 100:
        raise DeployError(
            f"A percentile of {percentile:g} is not above 0 and at most 100.",
            code="invalid-percentile",
            fix="give --percentile 90 or 99",
        )


def _require_accuracy(family: Family, targets: Targets) -> None:
    if targets.min_accuracy is not None and not family.accuracy:
        raise DeployError(
            f"No accuracy was published for {family.title}.",
            code="accuracy-not-published",
            fix="leave out --min-accuracy",
        )


def _rank(result: FitResult) -> tuple[float, float]:
    """Sort key by which the better precision comes last."""
    if result.chosen is None:
        return (float("-inf"), result.nearest_miss.images_per_s)
    return (result.chosen.phi, result.chosen.images_per_s)
