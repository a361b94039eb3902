"""Run an engine in a Ray Serve deployment, which batches requests: POST an image to /.

deploykit export --phi 0 && deploykit build-engine --gpu cpu --batch 1,8,16
ENGINE=$PWD/engines/efficientnet-phi0/model.fp32.cpu.onnx serve run ray_serve_app:app
curl --data-binary @photo.jpg http://127.0.0.1:8000/
"""

import asyncio
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from deploykit import DeployError, Engine
from deploykit.serving.decode_model import MAX_PIXELS, preprocess_images

MAX_BYTES = 20_000_000


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})  # num_gpus=1 for a GPU
class Classifier:
    def __init__(self, path: str) -> None:
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # a small file can hold a huge image
        self.engine = Engine.load(path)
        self.model = self.engine.manifest.model
        self.normalizes = self.engine.manifest.input.dtype != "uint8"

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)  # the largest batch of the engine's profile
    async def run(self, images: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        return list(self.engine(np.concatenate(images)))

    async def __call__(self, request: Request) -> dict[str, Any] | JSONResponse:
        encoded = b""
        async for chunk in request.stream():
            encoded += chunk
            if len(encoded) > MAX_BYTES:
                return JSONResponse({"error": f"the image is larger than {MAX_BYTES} bytes"}, status_code=413)
        try:
            image = await asyncio.to_thread(
                preprocess_images, [encoded], self.model.preprocessing, normalizes=self.normalizes
            )
        except DeployError as error:
            return JSONResponse({"error": error.problem}, status_code=400)
        logits = await self.run(image)
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        names = self.model.labels or [str(at) for at in range(len(probabilities))]
        return {names[at]: float(probabilities[at]) for at in probabilities.argsort()[:-6:-1]}

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()


app = Classifier.bind(os.environ["ENGINE"])
