"""Serve an engine over plain HTTP: POST an image, get the likeliest classes and their probabilities.

deploykit export --phi 0 && deploykit build-engine --gpu cpu
python http_server.py engines/efficientnet-phi0/model.fp32.cpu.onnx 8000
curl --data-binary @photo.jpg http://127.0.0.1:8000
"""

import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from deploykit import Engine

engine = Engine.load(sys.argv[1] if len(sys.argv) == 3 else sys.exit(__doc__))
model, takes_pixels = engine.manifest.model, engine.manifest.input.dtype == "uint8"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        try:
            length = int(self.headers["Content-Length"])
            image = Image.open(io.BytesIO(self.rfile.read(length if 0 < length <= 20_000_000 else 0)))
            pixels = model.preprocessing.crop(image)[None]
            logits = engine(pixels if takes_pixels else model.preprocessing.normalize(pixels))[0]
        except Exception as error:  # Pillow raises many types of exceptions for invalid images
            return self.send_error(400, f"send an image of up to 20 MB ({type(error).__name__})")
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        likeliest = {(model.labels or range(at + 1))[at]: float(p[at]) for at in p.argsort()[:-6:-1]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        return self.wfile.write(json.dumps(likeliest).encode())


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
