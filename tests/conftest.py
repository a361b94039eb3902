"""Models and data that several tests share, made once."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from small_models import colour_blocks, colour_ranges, two_convolutions
from solid_colours import write_images

import deploykit
from deploykit.cli.main import main
from deploykit.networks.export import Export, export_onnx

# Machines differ in speed: a slow example is no failure.
settings.register_profile("deploykit", deadline=None, max_examples=40)
settings.load_profile("deploykit")

# Trained models and real images, which are not part of the project.
SHARED = Path(os.environ.get("DEPLOYKIT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_configure() -> None:
    """Tests that interrupt a process work where they themselves run in the background, deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("COLUMNS", None)  # xdist sets it; tables would fit that width
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        _keep_to_one_core(int(worker.removeprefix("gw")))


def _keep_to_one_core(number: int) -> None:
    """Workers would else start as many threads each as there are cores, and wait for one another's."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def pytest_report_header() -> str:
    return f"deploykit under test: {Path(deploykit.__file__).parent}"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny(workplace: Path) -> str:
    """A family whose members take milliseconds, and differ well in that."""
    text = (Path(__file__).parents[1] / "docs" / "families.md").read_text("utf-8")
    Path("tiny.py").write_text(text.partition("```python\n")[2].partition("```")[0])
    return "tiny.py"


@pytest.fixture(scope="session")
def cuda_stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server for the tests of cuda_stub.loaded."""
    from cuda_stub.loaded import stub_server

    with stub_server(tmp_path_factory.mktemp("stub")):
        yield


@pytest.fixture
def prefetch_threads() -> Callable[[], list[threading.Thread]]:
    """Gives the threads that decode ahead and were not there before the test."""
    before = set(threading.enumerate())

    def started() -> list[threading.Thread]:
        return [
            each
            for each in threading.enumerate()
            if each.name.startswith("deploykit-prefetch") and each not in before
        ]

    return started


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the trained EfficientNet-B0 (10 classes, 64 px) and real images."""
    if not (SHARED / "README.md").is_file():
        pytest.skip(f"needs the trained model and images, which are not at {SHARED}: set DEPLOYKIT_TEST_DATA")
    return SHARED


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@pytest.fixture(scope="session")
def validation(shared: Path) -> LabelledImages:
    """2,000 CIFAR-10 test images at 64 px."""
    archive = np.load(shared / "cifar10_val.npz")
    return LabelledImages(pixels=archive["images"], labels=archive["labels"])


@pytest.fixture(scope="session")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The trained B0, exported."""
    return _exported(shared / "efficientnet_b0_cifar10_64px.safetensors", tmp_path_factory)


@pytest.fixture(scope="session")
def hard(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """From earlier in its training: one image in sixty drives its activations to fifty times the usual."""
    return _exported(shared / "efficientnet_b0_cifar10_64px_hard.safetensors", tmp_path_factory)


def _exported(weights: Path, folders: pytest.TempPathFactory) -> Export:
    return export_onnx(0, weights=weights, side_px=64, output=folders.mktemp(weights.stem))


@pytest.fixture(scope="session")
def random_b0(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """B0 with random weights at 64 px, which is quick."""
    return export_onnx(0, side_px=64, output=tmp_path_factory.mktemp("random"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def code(self) -> str | None:
        """The code of the error that was printed; None where there is none."""
        found = re.search(r"^error: .* \[([a-z0-9-]+)\]$", self.err, re.MULTILINE)
        return found[1] if found else None


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: str) -> Outcome:
        monkeypatch.setattr("sys.argv", ["deploykit", *arguments])
        capsys.readouterr()
        handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            with pytest.raises(SystemExit) as exit_info:
                main()
        finally:  # a process of its own would end with them
            for each, handler in handlers.items():
                signal.signal(each, handler)
        printed = capsys.readouterr()
        code = exit_info.value.code
        return Outcome(status=code if isinstance(code, int) else 0, out=printed.out, err=printed.err)

    return run_command


@pytest.fixture
def int8_folder(run: Run, tmp_path: Path) -> Path:
    """The current one, with small models, images and ranges, and mistakes of every kind among them."""
    model = colour_blocks(tmp_path / "model.onnx")
    other = colour_blocks(tmp_path / "other.onnx", random=True)
    two_convolutions(tmp_path / "nan.onnx", weight=np.nan)
    two_convolutions(tmp_path / "fixed.onnx", batch=1)
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:-40])
    write_images(tmp_path / "images")
    write_images(tmp_path / "flat", labelled=False)
    write_images(tmp_path / "five", classes=("a", "b", "c", "d", "e"))
    (tmp_path / "empty").mkdir()
    write_images(tmp_path / "broken", labelled=False)
    (tmp_path / "broken" / "2.png").write_bytes(b"no image")
    np.savez(tmp_path / "wrong.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([0, 7]))
    np.savez(tmp_path / "same.npz", images=np.full((3, 8, 8, 3), 9, np.uint8))
    sound = colour_ranges(model)
    sound.save(tmp_path / "sound.json")
    colour_ranges(model, {"blocks.0.relu": 0.3}).save(tmp_path / "clipped.json")
    colour_ranges(model, {"input": 0.3, "blocks.0.relu": 0.3}).save(tmp_path / "hopeless.json")
    colour_ranges(other).save(tmp_path / "other.json")
    replace(sound, preprocessing=replace(sound.preprocessing, std=(0.5, 0.5, 0.5))).save(
        tmp_path / "std.json"
    )
    (tmp_path / "cut.json").write_text(sound.to_json()[:-30])
    return tmp_path
