"""An engine inside a FastAPI application: POST an image to /classify.

deploykit export --phi 0 && deploykit build-engine --gpu cpu
ENGINE=engines/efficientnet-phi0/model.fp32.cpu.onnx uvicorn fastapi_app:app
curl --data-binary @photo.jpg http://127.0.0.1:8000/classify
"""

import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from deploykit import Engine

MAX_BYTES = 20_000_000


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Engine.load(os.environ["ENGINE"]) as app.state.engine:  # closed once all requests are answered
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/ready")
def ready() -> dict[str, str]:
    return {"takes": app.state.engine.manifest.takes}


@app.post("/classify")
async def classify(request: Request) -> dict[str, float]:
    encoded = b""
    async for chunk in request.stream():
        encoded += chunk
        if len(encoded) > MAX_BYTES:
            raise HTTPException(413, f"more than {MAX_BYTES} bytes")
    try:
        return await run_in_threadpool(likeliest, encoded)
    except Exception as error:  # whatever is wrong with an image, Pillow has an exception for it
        raise HTTPException(400, f"no image that can be run: {type(error).__name__}") from error


def likeliest(encoded: bytes) -> dict[str, float]:
    """The five likeliest classes; an Engine may be called from many threads."""
    engine = app.state.engine
    model = engine.manifest.model
    pixels = model.preprocessing.crop(Image.open(io.BytesIO(encoded)))[None]
    takes_pixels = engine.manifest.input.dtype == "uint8"
    logits = engine(pixels if takes_pixels else model.preprocessing.normalize(pixels))[0]
    odds = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return {model.labels[at] if model.labels else str(at): float(odds[at]) for at in odds.argsort()[:-6:-1]}
