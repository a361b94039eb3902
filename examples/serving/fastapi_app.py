"""Run an engine in a FastAPI application: POST an image to /classify.

deploykit export --phi 0 && deploykit build-engine --gpu cpu
ENGINE=engines/efficientnet-phi0/model.fp32.cpu.onnx uvicorn fastapi_app:app
curl --data-binary @photo.jpg http://127.0.0.1:8000/classify
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from deploykit import DeployError, Engine
from deploykit.serving.decode_model import MAX_PIXELS, preprocess_images

MAX_BYTES = 20_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # a small file can hold a huge image


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Engine.load(os.environ["ENGINE"]) as app.state.engine:  # closes after the last request
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/ready")
def ready() -> dict[str, str]:
    return {"takes": app.state.engine.manifest.input_summary}


@app.post("/classify")
async def classify(request: Request) -> dict[str, float]:
    encoded = b""
    async for chunk in request.stream():
        encoded += chunk
        if len(encoded) > MAX_BYTES:
            raise HTTPException(413, f"the image is larger than {MAX_BYTES} bytes")
    manifest = app.state.engine.manifest
    normalizes = manifest.input.dtype != "uint8"
    try:
        images = await run_in_threadpool(
            preprocess_images, [encoded], manifest.model.preprocessing, normalizes=normalizes
        )
    except DeployError as error:
        raise HTTPException(400, error.problem) from error
    return await run_in_threadpool(likeliest, images)


def likeliest(images: npt.NDArray[Any]) -> dict[str, float]:
    """Return the five likeliest classes; an Engine may be called from many threads."""
    engine = app.state.engine
    labels, logits = engine.manifest.model.labels, engine(images)[0]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return {
        labels[at] if labels else str(at): float(probabilities[at]) for at in probabilities.argsort()[:-6:-1]
    }
