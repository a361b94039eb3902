"""An engine inside a Ray Serve deployment, which puts requests together: POST an image to /.

deploykit export --phi 0 && deploykit build-engine --gpu cpu --batch 1,8,16
ENGINE=$PWD/engines/efficientnet-phi0/model.fp32.cpu.onnx serve run ray_serve_app:app
curl --data-binary @photo.jpg http://127.0.0.1:8000/
"""

import io
import os
from typing import Any

import numpy as np
from PIL import Image
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from deploykit import Engine


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})  # num_gpus=1 for a GPU
class Classifier:
    def __init__(self, path: str) -> None:
        self.engine = Engine.load(path)
        self.model = self.engine.manifest.model
        self.takes_pixels = self.engine.manifest.input.dtype == "uint8"

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)  # as many as the engine's profile takes
    async def run(self, pixels: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        batch = np.stack(pixels)
        return list(self.engine(batch if self.takes_pixels else self.model.preprocessing.normalize(batch)))

    async def __call__(self, request: Request) -> dict[str, Any] | JSONResponse:
        try:
            pixels = self.model.preprocessing.crop(Image.open(io.BytesIO(await request.body())))
        except Exception as error:  # whatever is wrong with an image, Pillow has an exception for it
            return JSONResponse({"error": f"no image: {type(error).__name__}"}, status_code=400)
        logits = await self.run(pixels)
        odds = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        names = self.model.labels or [str(at) for at in range(len(odds))]
        return {names[at]: float(odds[at]) for at in odds.argsort()[:-6:-1]}

    def __del__(self) -> None:
        self.engine.close()


app = Classifier.bind(os.environ["ENGINE"])
