"""How far a model's outputs are from the FP32 model's, image by image."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.quantize.placement import Placement
from deploykit.quantize.qdq import insert_qdq
from deploykit.quantize.ranges import Ranges
from deploykit.sessions import cpu_session, run

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[np.float32]
_EXACT = 2.0**40  # sums of multiples of 2^-40 stay exact up to 2^12 images' worth, in any order


def image_errors(logits: Array, reference: Array) -> npt.NDArray[np.float64]:
    """Noise power over noise and signal power of each image, from 0 to 1; (n,).

    Bounded, so that an image whose outputs are a hundred times the others' counts no more than they
    do: with SQNR over all of them it alone would decide. Logits are taken less their mean, which
    changes no probability. NaN and Inf count as nothing but noise.

    Args:
        logits, reference: (n, classes).
    """
    difference = _centred(logits.astype(np.float64) - reference)
    noise, signal = (np.square(part).sum(axis=1) for part in (difference, _centred(reference)))
    total = noise + signal
    errors = np.divide(noise, total, out=np.zeros_like(total), where=total > 0)
    errors[~np.isfinite(total)] = 1  # NaN and Inf are all noise
    return _exact(errors)


def image_amplitudes(logits: Array, reference: Array) -> npt.NDArray[np.float64]:
    """The square roots of image_errors: how likely an image is to change its class grows in step with these.

    A class changes where the noise is larger than the lead of the class before the next; so of an image
    whose noise is twice another's, or of twice the images, as many change. By errors, which are powers, a
    few images that are lost altogether would outweigh all others.
    """
    return _exact(np.sqrt(image_errors(logits, reference)))


def run_model(model: bytes, batches: list[Array]) -> Array:
    """Outputs with the arithmetic TensorRT does, (n, classes)."""
    session = cpu_session(model, fuse_int8=False)
    return np.concatenate([run(session, batch)[0] for batch in batches])


def run_quantized(model: "ModelProto", placement: Placement, ranges: Ranges, batches: list[Array]) -> Array:
    """Outputs of the FP32 model with the placement in INT8, (n, classes)."""
    return run_model(insert_qdq(model, placement, ranges).SerializeToString(), batches)


def _exact(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.rint(values * _EXACT) / _EXACT)


def _centred(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    flat = logits.reshape(len(logits), -1).astype(np.float64)
    with np.errstate(invalid="ignore"):  # Inf less Inf
        return flat - flat.mean(axis=1, keepdims=True) if flat.shape[1] > 1 else flat
