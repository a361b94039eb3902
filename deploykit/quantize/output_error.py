"""How far a model's outputs are from the FP32 model's, image by image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.onnx_tools.ort_session import cpu_session, run
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.placement import Placement
from deploykit.quantize.qdq import insert_qdq

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[np.float32]
Outputs = tuple[Array, ...]
_ANCHORS = 1000  # about as many as non-maximum suppression is given
_EXACT = 2.0**40  # sums of multiples of 2^-40 stay exact up to 2^12 images' worth, in any order


def image_errors(logits: Array, reference: Array) -> npt.NDArray[np.float64]:
    """Noise power over noise and signal power of each image, from 0 to 1; (n,).

    Bounded, so that an image whose outputs are a hundred times the others' counts no more than they
    do: with SQNR over all of them it alone would decide. Logits are taken less their mean, which
    changes no probability. NaN and Inf count as nothing but noise.

    Args:
        logits, reference: (n, classes), or of other outputs (n, ...).
    """
    difference = _centred(logits.astype(np.float64) - reference)
    noise, signal = (np.square(part).sum(axis=1) for part in (difference, _centred(reference)))
    total = noise + signal
    errors = np.divide(noise, total, out=np.zeros_like(total), where=total > 0)
    errors[~np.isfinite(total)] = 1  # NaN and Inf are all noise
    return _exact(errors)


def image_error_amplitudes(logits: Array, reference: Array) -> npt.NDArray[np.float64]:
    """The square roots of image_errors: how likely an image is to change its class grows in step with these.

    A class changes where the noise is larger than the lead of the class before the next; so of an image
    whose noise is twice another's, or of twice the images, as many change. By errors, which are powers, a
    few images that are lost altogether would outweigh all others.
    """
    return _exact(np.sqrt(image_errors(logits, reference)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceOutputs:
    """What the FP32 model answers, which others are compared with.

    Of a detector that is what the anchors say that score most in it: the others are background, whose boxes
    say nothing, and are a hundred times as many.

    Attributes:
        outputs: each (images, ...).
        anchors: of each batch those, (images, 1000, 1); () for models without anchors.
    """

    outputs: Outputs
    anchors: tuple[npt.NDArray[np.int64], ...]

    @property
    def is_classifier(self) -> bool:
        return len(self.outputs) == 1 and self.outputs[0].ndim == 2


def run_reference(model: "ModelProto", batches: list[Array]) -> ReferenceOutputs:
    """The FP32 model's outputs."""
    session = cpu_session(model.SerializeToString(), fuse_int8=False)
    made, anchors = [], []
    for batch in batches:
        outputs = run(session, batch)
        if len(outputs) > 1 and all(each.ndim == 3 for each in outputs):
            anchors.append(_highest(outputs[-1]))
            outputs = _at(outputs, anchors[-1])
        made.append(outputs)
    return ReferenceOutputs(outputs=_joined(made), anchors=tuple(anchors))


def run_model(model: bytes, batches: list[Array], reference: ReferenceOutputs) -> Outputs:
    """What is compared with the reference, with the arithmetic TensorRT does."""
    session = cpu_session(model, fuse_int8=False)
    made = [run(session, batch) for batch in batches]
    if reference.anchors:
        made = [_at(outputs, anchors) for outputs, anchors in zip(made, reference.anchors, strict=True)]
    return _joined(made)


def run_quantized(
    model: "ModelProto",
    placement: Placement,
    ranges: Ranges,
    batches: list[Array],
    reference: ReferenceOutputs,
) -> Outputs:
    """The same of the FP32 model with the placement in INT8."""
    return run_model(insert_qdq(model, placement, ranges).SerializeToString(), batches, reference)


def output_errors(outputs: Outputs, reference: ReferenceOutputs) -> npt.NDArray[np.float64]:
    """image_errors, averaged over the outputs."""
    return _averaged(image_errors, outputs, reference)


def output_error_amplitudes(outputs: Outputs, reference: ReferenceOutputs) -> npt.NDArray[np.float64]:
    """image_error_amplitudes, averaged over the outputs."""
    return _averaged(image_error_amplitudes, outputs, reference)


def _averaged(
    measure: Callable[[Array, Array], npt.NDArray[np.float64]], outputs: Outputs, reference: ReferenceOutputs
) -> npt.NDArray[np.float64]:
    pairs = zip(outputs, reference.outputs, strict=True)
    return _exact(np.mean([measure(given, wanted) for given, wanted in pairs], axis=0))


def _highest(scores: Array) -> npt.NDArray[np.int64]:
    best = scores.max(axis=2)
    count = min(_ANCHORS, best.shape[1])
    return np.argpartition(-best, count - 1, axis=1)[:, :count, None]


def _at(outputs: list[Array], anchors: npt.NDArray[np.int64]) -> list[Array]:
    return [np.take_along_axis(each, anchors, axis=1) for each in outputs]


def _joined(batches: list[list[Array]]) -> Outputs:
    return tuple(np.concatenate(each) for each in zip(*batches, strict=True))


def _exact(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.rint(values * _EXACT) / _EXACT)


def _centred(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    flat = logits.reshape(len(logits), -1).astype(np.float64)
    with np.errstate(invalid="ignore"):  # Inf less Inf
        return flat - flat.mean(axis=1, keepdims=True) if flat.shape[1] > 1 else flat
