"""A real Triton, of nvidia-pytriton's wheel, with models that tests ask."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http
from served import colours, flat_images, options, triton

from deploykit.engine.build import build_engine
from deploykit.engine.shapes import BatchRange
from deploykit.networks.export import export_onnx
from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository
from deploykit.serving.triton.server import Server, run_server

MAX_BODY = 2**20
B0, COLOURS, BATCHED = "efficientnet-phi0", "colours", "batched"


@dataclass(frozen=True)
class Served:
    server: Server
    b0: Path
    colours: Path

    @property
    def address(self) -> str:
        return self.server.url.removeprefix("http://")

    def client(self, **more) -> tritonclient.http.InferenceServerClient:
        return tritonclient.http.InferenceServerClient(self.address, **more)

    def grpc(self) -> tritonclient.grpc.InferenceServerClient:
        return tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{self.server.ports.grpc}")


@contextmanager
def served_models(folder: Path) -> Iterator[Served]:
    """B0 of 64 px with named classes; and a classifier by colour, with and without batching."""
    labels = folder / "labels.txt"
    labels.write_text("".join(f"class {at}\n" for at in range(1000)))
    exported = export_onnx(0, side_px=64, labels=labels, output=folder / "b0.onnx")
    b0 = build_engine(
        onnx=exported.path,
        gpu="cpu",
        batches=[BatchRange(min=1, opt=2, max=4)],
        output=folder / "b0.cpu.onnx",
    ).path
    small = colours(folder)
    found, repository = triton(), folder / "models"
    alone = ModelOptions(backend="python", batching=False)
    write_repository(repository, [b0], alone)
    write_repository(repository, [small], ModelOptions(backend="python", name=COLOURS, batching=False))
    write_repository(repository, [small], ModelOptions(backend="python", name=BATCHED, images=False))
    with run_server(repository, found, options(body_bytes=MAX_BODY)) as server:
        yield Served(server, b0, small)


def ask(client, module, model: str, images: np.ndarray) -> np.ndarray:
    given = module.InferInput("input", images.shape, "FP32")
    given.set_data_from_numpy(images)
    return client.infer(model, [given]).as_numpy("logits")


def assert_answers(served: Served) -> None:
    images = flat_images(1, seed=9)
    answer = ask(served.client(), tritonclient.http, COLOURS, images)
    np.testing.assert_allclose(answer, images[:, :, 0, 0], rtol=1e-6)


def memory_kb(served: Served) -> int:
    """Of Triton itself."""
    status = Path(f"/proc/{served.server.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])
