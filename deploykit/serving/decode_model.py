"""What Triton's Python backend runs in front of an engine: encoded images become the engine's input."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.data.images.decode import decode_stream
from deploykit.data.preprocessing import Preprocessing
from deploykit.serving.repository.config import IMAGE, PREPARED, RECIPE_FILE
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_json

# Of all that Pillow reads: formats of photos, none of which starts other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000  # of an image; decoded it takes three bytes each


class TritonPythonModel:
    """The methods and their arguments are Triton's."""

    def initialize(self, args: dict[str, str]) -> None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        recipe = Path(args["model_repository"], args["model_version"], RECIPE_FILE)
        self._preprocessing = from_json(recipe.read_bytes(), Preprocessing)
        self._normalizes = '"TYPE_UINT8"' not in args["model_config"]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A request whose images can't be read is refused; the others of the batch are not."""
        import triton_python_backend_utils as triton

        responses = []
        for each in requests:
            encoded = triton.get_input_tensor_by_name(each, IMAGE).as_numpy()
            try:
                prepared = prepare(encoded.reshape(-1), self._preprocessing, normalizes=self._normalizes)
            except DeployError as error:
                refusal = triton.TritonError(error.problem, triton.TritonError.INVALID_ARG)
                responses.append(triton.InferenceResponse(error=refusal))
                continue
            responses.append(triton.InferenceResponse([triton.Tensor(PREPARED, prepared)]))
        return responses


def prepare(encoded: Sequence[bytes], preprocessing: Preprocessing, *, normalizes: bool) -> npt.NDArray[Any]:
    """Encoded images as a batch of the network's input.

    Args:
        normalizes: False for an engine that takes uint8 and does that itself.

    Raises:
        DeployError: one of them is no image.
    """
    names = ["The image"] if len(encoded) == 1 else [f"Image {at}" for at in range(1, len(encoded) + 1)]
    pixels = np.stack(
        [
            decode_stream(io.BytesIO(each), name, preprocessing, formats=FORMATS)
            for name, each in zip(names, encoded, strict=True)
        ]
    )
    return preprocessing.normalize(pixels) if normalizes else pixels
