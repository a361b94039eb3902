"""An engine behind plain HTTP: POST an image, get the likeliest classes and their probabilities.

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

engine = Engine.load(sys.argv[1])
preprocessing = engine.manifest.model.preprocessing


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        try:
            body = self.rfile.read(min(int(self.headers["Content-Length"]), 20_000_000))
            pixels = preprocessing.crop(Image.open(io.BytesIO(body)))[None]
        except Exception as error:  # whatever is wrong with an image, Pillow has an exception for it
            self.send_error(400, f"not an image: {type(error).__name__}")
            return
        takes_pixels = engine.manifest.input.dtype == "uint8"
        logits = engine(pixels if takes_pixels else preprocessing.normalize(pixels))[0]
        odds = np.exp(logits - logits.max())
        likeliest = {int(at): float(odds[at] / odds.sum()) for at in logits.argsort()[::-1][:5]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(likeliest).encode())


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
