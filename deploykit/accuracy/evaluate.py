"""Measure the accuracy of a model or an engine, and its loss against the FP32 model it was made from."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.accuracy.evaluation import Evaluation, unlabelled_error
from deploykit.accuracy.model_loader import Arithmetic, LoadedModel, open_model
from deploykit.accuracy.reference import find_reference
from deploykit.bench.record import utc_timestamp
from deploykit.data.images.generated import GENERATED
from deploykit.data.images.open import MAX_IMAGES, open_images
from deploykit.data.images.selection import Images, OnSkipped
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.engine.shapes import round_up_batch
from deploykit.stats.accuracy_metrics import Logits, score
from deploykit.stats.proportion import is_within_chance
from deploykit.util.errors import DeployError
from deploykit.util.progress import Note, Progress, ignore_note, no_progress

_BATCH = 8  # a larger batch gains little on a CPU, and takes gigabytes at phi 7


def evaluate_model(
    model: str | Path,
    data: str | Path,
    *,
    images: int | None = None,
    reference: str | Path | None = None,
    arithmetic: Arithmetic | None = None,
    overrides: Overrides = NO_OVERRIDES,
    require_labels: bool = False,
    on_skipped: OnSkipped | None = None,
    note: Note = ignore_note,
    progress: Progress = no_progress,
) -> Evaluation:
    """Run a model and its FP32 reference on the same images, and compare their outputs.

    Args:
        model: An ONNX file, or an engine that this machine can run.
        data: Images, see data.images.open.open_images. Without labels, only the comparison with FP32 is made.
        images: Maximum number of images; default all, or 512 generated ones.
        reference: The FP32 model; default the one found by its digest, see find_reference.
        arithmetic: How INT8 is computed, see model_loader.open_model.
        overrides: Changes to the model's preprocessing, see open_images.
        require_labels: Reject images without labels, which have no top-1 to record.
        on_skipped: Called with the error of each unreadable image, which is then skipped; None raises it.
        note: Called with remarks for the user.
        progress: Called with the number of images done and in total.

    Raises:
        DeployError: The input is invalid, the model has no classes for the labels, its outputs are not
            finite, or there are neither labels nor a reference to compare with.
    """
    started = utc_timestamp()
    with ExitStack() as opened:
        judged = opened.enter_context(open_model(Path(model), arithmetic))
        limit = images if images is not None or str(data) == GENERATED else MAX_IMAGES
        drawn = open_images(data, judged.info.preprocessing, limit=limit, overrides=overrides)
        if require_labels and drawn.labels is None:
            raise unlabelled_error(drawn)
        compared, sentence = find_reference(judged, Path(reference) if reference is not None else None)
        models = [judged]
        if compared is not None:
            models.append(opened.enter_context(_open_reference(compared, judged)))
        elif drawn.labels is None:
            raise DeployError(
                f"{drawn.source} has no labels, and there is no FP32 model to compare with. "
                + (sentence or f"{judged.path} is an FP32 model itself."),
                code="images-unlabelled",
                fix="name the FP32 model with --reference, or give labelled images: one folder per class",
            )
        if sentence is not None:
            note(sentence)
        indices, logits = _run(models, drawn, on_skipped=on_skipped, progress=progress)
    if images is not None and drawn.count < images:
        note(f"Using all {drawn.count} images of {drawn.source} ({images} requested).")
    scores = score(
        logits[0],
        labels=drawn.labels[indices] if drawn.labels is not None else None,
        reference=logits[1] if compared is not None else None,
    )
    fp32 = scores.reference_top1 or scores.top1
    if fp32 is not None and is_within_chance(fp32, images=len(indices), classes=logits[0].shape[1]):
        note(_no_better_than_guessing(judged))
    return Evaluation(
        model=judged,
        reference=compared,
        images=drawn,
        indices=indices,
        scores=scores,
        started=started,
    )


def _no_better_than_guessing(model: LoadedModel) -> str:
    if model.info.weights == "random":
        return "The weights are random, so top-1 is meaningless."
    return (
        "Top-1 is no better than chance. Check that the labels use the model's class order, and that the "
        "preprocessing is the one it was trained with."
    )


@contextmanager
def _open_reference(path: Path, judged: LoadedModel) -> Iterator[LoadedModel]:
    with open_model(path, "runtime") as reference:
        if reference.precision != "fp32":
            raise DeployError(
                f"{path} is {reference.precision.upper()}; a loss is measured against an FP32 model.",
                code="reference-not-fp32",
                fix="name the FP32 model with --reference",
            )
        side_px, wanted_px = (each.info.preprocessing.side_px for each in (reference, judged))
        if side_px != wanted_px:
            raise DeployError(
                f"{path} takes {side_px} px images; {judged.path} takes {wanted_px} px images.",
                code="side-mismatch",
                fix="name the FP32 model that it was made from with --reference",
            )
        yield reference


def _run(
    models: Sequence[LoadedModel],
    images: Images,
    *,
    on_skipped: OnSkipped | None,
    progress: Progress,
) -> tuple[npt.NDArray[np.int64], list[Logits]]:
    """Return the indices of the readable images, (n,), and each model's logits for them, (n, classes).

    A single pass decodes every image once and gives both models the same input.
    """
    size = round_up_batch(models[0].batches, _BATCH)
    indices: list[npt.NDArray[np.int64]] = []
    logits: list[list[Logits]] = [[] for _ in models]
    for each in images.batches(size, on_skipped=on_skipped):
        for model, kept in zip(models, logits, strict=True):
            given = model(each.inputs)
            _require_finite(given, model, images, each.indices)
            kept.append(given)
        if not indices:
            _require_same_classes([given[0] for given in logits], models, images)
        indices.append(each.indices)
        progress("evaluating", int(each.indices[-1]) + 1, images.count)
    return np.concatenate(indices), [np.concatenate(each) for each in logits]


def _require_finite(
    logits: Logits, model: LoadedModel, images: Images, indices: npt.NDArray[np.int64]
) -> None:
    wrong = indices[~np.isfinite(logits).all(axis=1)]
    if wrong.size:
        raise DeployError(
            f"{model.path} returns NaN or infinite logits for image {wrong[0]} of {images.source}.",
            code="outputs-not-finite",
            fix="check the weights for extreme values, or build it with --precision fp32",
        )


def _require_same_classes(logits: Sequence[Logits], models: Sequence[LoadedModel], images: Images) -> None:
    """Check that data, model and reference have the same number of classes, as far as that is known."""
    classes = logits[0].shape[1]
    for model, given in zip(models, logits, strict=True):
        if given.shape[1] != classes:
            raise DeployError(
                f"{model.path} has {given.shape[1]} classes; {models[0].path} has {classes}.",
                code="class-count-mismatch",
                fix="name the FP32 model that it was made from with --reference",
            )
    images.require_classes(classes, models[0].path)
