"""Decodes and preprocesses images inside Triton's Python backend, in front of an engine."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.data.images.decode import decode_stream
from deploykit.data.preprocessing import Preprocessing
from deploykit.serving.repository.config import IMAGE_TENSOR, PREPROCESSED_TENSOR, PREPROCESSING_FILE
from deploykit.util.array_types import Array
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_json

# Pillow reads many more. These are formats of photos, and none of them starts another program.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000  # of an image; decoded, each takes three bytes


class TritonPythonModel:
    """The decoder's model; Triton defines the methods and their arguments."""

    def initialize(self, args: dict[str, str]) -> None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        path = Path(args["model_repository"], args["model_version"], PREPROCESSING_FILE)
        self._preprocessing = from_json(path.read_bytes(), Preprocessing)
        self._normalizes = '"TYPE_UINT8"' not in args["model_config"]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Decode each request's images; a request with an unreadable image fails alone."""
        import triton_python_backend_utils as triton

        responses = []
        for each in requests:
            encoded = triton.get_input_tensor_by_name(each, IMAGE_TENSOR).as_numpy().reshape(-1)
            try:
                images = preprocess_images(encoded, self._preprocessing, normalizes=self._normalizes)
            except DeployError as problem:
                error = triton.TritonError(problem.problem, triton.TritonError.INVALID_ARG)
                responses.append(triton.InferenceResponse(error=error))
                continue
            responses.append(triton.InferenceResponse([triton.Tensor(PREPROCESSED_TENSOR, images)]))
        return responses


def preprocess_images(encoded: Sequence[bytes], preprocessing: Preprocessing, *, normalizes: bool) -> Array:
    """Decode and preprocess images into a batch of the network's input.

    Args:
        encoded: Files in one of IMAGE_FORMATS.
        normalizes: Whether to normalize pixels; False for an engine that takes uint8 and does so itself.

    Raises:
        DeployError: An image can't be read.
    """
    names = ["The image"] if len(encoded) == 1 else [f"Image {at}" for at in range(1, len(encoded) + 1)]
    pixels = np.stack(
        [
            decode_stream(io.BytesIO(each), name, preprocessing, formats=IMAGE_FORMATS)
            for name, each in zip(names, encoded, strict=True)
        ]
    )
    return preprocessing.normalize(pixels) if normalizes else pixels
