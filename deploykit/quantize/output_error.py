"""How far the outputs of a quantized model are from FP32's, image by image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.onnx_tools.ort_session import cpu_session, run_session
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.placement import Placement
from deploykit.quantize.qdq import insert_qdq
from deploykit.util.array_types import Float32Array, Float64Array, FloatArray

if TYPE_CHECKING:
    from onnx import ModelProto

Outputs = tuple[Float32Array, ...]
"""The outputs of a model, (images, ...) each."""
AnchorIndices = npt.NDArray[np.int64]
_ANCHORS = 1000  # about as many as non-maximum suppression receives
_PRECISION = 2.0**40  # sums of multiples of 2^-40 are exact for up to 2^12 images, in any order


def image_errors(logits: Float32Array, reference: Float32Array) -> Float64Array:
    """Return each image's noise power divided by its noise and signal power, from 0 to 1.

    The error is bounded, so that an image whose outputs are a hundred times those of the others does not
    count more than they do; it alone would decide an SQNR over all images. The mean of the logits is
    subtracted first, which changes no probability. NaN and Inf count as pure noise.

    Args:
        logits, reference: (n, classes), or (n, ...) for other outputs.

    Returns:
        Shape (n,).
    """
    difference = _centered(logits.astype(np.float64) - reference)
    noise, signal = (np.square(part).sum(axis=1) for part in (difference, _centered(reference)))
    total = noise + signal
    errors = np.divide(noise, total, out=np.zeros_like(total), where=total > 0)
    errors[~np.isfinite(total)] = 1  # NaN and Inf are pure noise
    return _rounded(errors)


def image_error_amplitudes(logits: Float32Array, reference: Float32Array) -> Float64Array:
    """Return the square roots of image_errors, to which the chance of a changed class is proportional.

    A class changes if the noise exceeds the lead of the best class over the second. So doubling the noise
    of an image changes as many classes as doubling the number of images. With errors, which are powers, a
    few images that are lost entirely would outweigh all others.
    """
    return _rounded(np.sqrt(image_errors(logits, reference)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceOutputs:
    """The outputs of the FP32 model, with which others are compared.

    For a detector only the anchors that score highest are compared. The others are background, whose boxes
    mean nothing, and there are a hundred times as many.

    Attributes:
        outputs: (images, ...) each.
        anchors: Indices of the highest-scoring anchors of each batch, (images, 1000, 1); () for models
            without anchors.
    """

    outputs: Outputs
    anchors: tuple[AnchorIndices, ...]

    @property
    def is_classifier(self) -> bool:
        return len(self.outputs) == 1 and self.outputs[0].ndim == 2


def run_reference(model: "ModelProto", batches: list[Float32Array]) -> ReferenceOutputs:
    """Return the outputs of the FP32 model."""
    session = cpu_session(model.SerializeToString(), fuse_int8=False)
    batch_outputs, anchors = [], []
    for batch in batches:
        outputs = run_session(session, batch)
        if len(outputs) > 1 and all(each.ndim == 3 for each in outputs):
            anchors.append(_best_anchors(outputs[-1]))
            outputs = _at_anchors(outputs, anchors[-1])
        batch_outputs.append(outputs)
    return ReferenceOutputs(outputs=_concatenated(batch_outputs), anchors=tuple(anchors))


def run_model(model: bytes, batches: list[Float32Array], reference: ReferenceOutputs) -> Outputs:
    """Return the outputs to compare with the reference, computed with TensorRT's arithmetic."""
    session = cpu_session(model, fuse_int8=False)
    batch_outputs = [run_session(session, batch) for batch in batches]
    if reference.anchors:
        pairs = zip(batch_outputs, reference.anchors, strict=True)
        batch_outputs = [_at_anchors(outputs, anchors) for outputs, anchors in pairs]
    return _concatenated(batch_outputs)


def run_quantized(
    model: "ModelProto",
    placement: Placement,
    ranges: Ranges,
    batches: list[Float32Array],
    reference: ReferenceOutputs,
) -> Outputs:
    """Return the outputs of the FP32 model with the placement in INT8, to compare with the reference."""
    return run_model(insert_qdq(model, placement, ranges).SerializeToString(), batches, reference)


def output_errors(outputs: Outputs, reference: ReferenceOutputs) -> Float64Array:
    """Return image_errors, averaged over the outputs."""
    return _averaged(image_errors, outputs, reference)


def output_error_amplitudes(outputs: Outputs, reference: ReferenceOutputs) -> Float64Array:
    """Return image_error_amplitudes, averaged over the outputs."""
    return _averaged(image_error_amplitudes, outputs, reference)


def _averaged(
    measure: Callable[[Float32Array, Float32Array], Float64Array],
    outputs: Outputs,
    reference: ReferenceOutputs,
) -> Float64Array:
    pairs = zip(outputs, reference.outputs, strict=True)
    return _rounded(np.mean([measure(given, wanted) for given, wanted in pairs], axis=0))


def _best_anchors(scores: Float32Array) -> AnchorIndices:
    best = scores.max(axis=2)
    count = min(_ANCHORS, best.shape[1])
    return np.argpartition(-best, count - 1, axis=1)[:, :count, None]


def _at_anchors(outputs: list[Float32Array], anchors: AnchorIndices) -> list[Float32Array]:
    return [np.take_along_axis(each, anchors, axis=1) for each in outputs]


def _concatenated(batches: list[list[Float32Array]]) -> Outputs:
    return tuple(np.concatenate(each) for each in zip(*batches, strict=True))


def _rounded(values: Float64Array) -> Float64Array:
    return np.asarray(np.rint(values * _PRECISION) / _PRECISION)


def _centered(logits: FloatArray) -> Float64Array:
    flat = logits.reshape(len(logits), -1).astype(np.float64)
    with np.errstate(invalid="ignore"):  # Inf minus Inf
        return flat - flat.mean(axis=1, keepdims=True) if flat.shape[1] > 1 else flat
