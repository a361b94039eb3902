"""Shared by the tests over the stub driver: processes that have the stub, and engines in them."""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cuda_stub import driver
from cuda_stub.driver import OnDevice
from cuda_stub.fork_server import ForkServer

import deploykit
from deploykit.data.preprocessing import Preprocessing
from deploykit.engine.audit.audit import Audit
from deploykit.engine.manifest import EngineManifest, TensorSpec
from deploykit.engine.shapes import BatchRange
from deploykit.engine.targets import Target
from deploykit.networks.model_info import ModelInfo
from deploykit.runtime import Engine
from deploykit.runtime.arrays import as_device_array
from deploykit.runtime.tensorrt.runner import TensorRTRunner
from deploykit.util.local_gpu import local_gpu

SIDE_PX, CLASSES = 8, 10
MANIFEST = EngineManifest(
    engine_sha256="0" * 64,
    precision="fp16",
    compiler_version="1.7.1.116",
    target=Target(name="RTX 4090", compiler="tensorrt-rtx", sm=89),
    batches=(BatchRange(min=1, opt=8, max=64),),
    input=TensorSpec(name="input", dtype="float32", shape=(3, SIDE_PX, SIDE_PX)),
    output=TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),
    model=ModelInfo(
        family="means",
        phi=None,
        rule=None,
        precision="fp32",
        preprocessing=Preprocessing(side_px=SIDE_PX),
        weights="random",
    ),
    audit=Audit(source="builder log", layers=()),
    build_seconds=1.0,
    deploykit_version="0.1.0",
)
TENSORRT = replace(MANIFEST, target=Target(name="RTX 4090", compiler="tensorrt", sm=89))
PROFILES = replace(MANIFEST, batches=tuple(BatchRange(min=n, opt=n, max=n) for n in (1, 8, 64)))
TWO_OUTPUTS = replace(MANIFEST, more_outputs=(TensorSpec(name="more", dtype="float32", shape=(4,)),))
PIXELS = replace(MANIFEST, input=TensorSpec(name="input", dtype="uint8", shape=(SIDE_PX, SIDE_PX, 3)))

_server: list[ForkServer] = []


@contextmanager
def stub_server(folder: Path) -> Iterator[None]:
    """Build the stub in a folder and serve the tests that need it, or skip them."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.core") is None:
        pytest.skip("needs cuda-core")
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to build the stub")
    if (gpu := local_gpu()) is not None:
        pytest.skip(f"there is a GPU, {gpu.name}, which test_gpu.py uses")
    driver.build(folder)
    paths = (Path(__file__).parents[1], Path(deploykit.__file__).parents[1])
    server = ForkServer(
        {
            **os.environ,
            "LD_LIBRARY_PATH": str(folder),
            "PYTHONPATH": ":".join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
            "OPENBLAS_NUM_THREADS": "1",  # a process with threads cannot be forked safely
        }
    )
    _server.append(server)
    try:
        yield
    finally:
        _server.remove(server)
        server.close()


def over_the_stub(body: Callable[..., None]) -> Callable[..., None]:
    """Run a test's body in a fork that has the stub; nothing may have gone wrong on its device at the end."""
    folder = str(Path(body.__code__.co_filename).parent)

    @functools.wraps(body)
    def test(**arguments: Any) -> None:
        (server,) = _server
        ended = server.run(folder, body.__module__, body.__name__, arguments)
        assert ended.returncode == 0, f"ended with {ended.returncode}:\n{ended.output}"

    @functools.wraps(body)
    def checked(**arguments: Any) -> None:
        body(**arguments)
        assert not (fault := driver.fault()), fault

    test.body = checked
    return test


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An engine, its runner, and the stand-in for the TensorRT engine."""

    engine: Engine
    runner: TensorRTRunner
    trt: Any

    def run(self, images: Any, *, by: str = "call", stream: int | None = None) -> Any:
        match by:
            case "call":
                return self.engine(images)
            case "submit":
                return self.engine.submit(images).result()
        return self.engine.submit(images, stream=stream).result()

    def close(self) -> None:
        self.engine.close()

    def check(self, images: npt.NDArray[Any]) -> None:
        np.testing.assert_array_equal(self.run(images), expected(images))

    def run_on_device(self, images: OnDevice, answer: OnDevice, stream: int | None) -> None:
        there, place = as_device_array(images), as_device_array(answer)
        assert there is not None
        assert place is not None
        profile = self.engine.manifest.profile_for(there.shape)
        self.runner.run_on_device(there, (place,), profile, stream)


@contextmanager
def loaded(manifest: EngineManifest = MANIFEST, *, cuda_graphs: bool = True) -> Iterator[Loaded]:
    """Load an engine; check that closing it frees everything."""
    from cuda_stub.engine import Engine as FakeEngine

    trt = FakeEngine(manifest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "deploykit.runtime.tensorrt.runner.deserialize_plan", lambda path, manifest: (object(), trt)
        )
        runner = TensorRTRunner(Path("model.engine"), manifest, cuda_graphs=cuda_graphs)
    before = driver.alive()
    engine = Engine(Path("model.engine"), manifest, runner)
    yield Loaded(engine=engine, runner=runner, trt=trt)
    engine.close()
    assert driver.alive() == before


def whole_numbers(images: int, *, seed: int = 0, manifest: EngineManifest = MANIFEST) -> npt.NDArray[Any]:
    """Return images with exact means."""
    shape, dtype = (images, *manifest.input.shape), manifest.input.dtype
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def expected(images: npt.NDArray[Any], classes: int = CLASSES) -> npt.NDArray[np.float32]:
    from cuda_stub.engine import expected

    return expected(images, classes)
