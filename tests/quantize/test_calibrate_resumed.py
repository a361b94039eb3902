import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from folders import files_in
from PIL import Image
from small_models import archive, two_convolutions

from deploykit.quantize.calibration_files import calibrate_to_file


class Calibrating:
    """A `deploykit calibrate` of its own process, at a terminal, which shows how far it is."""

    def __init__(self, *arguments: str, folder: Path) -> None:
        self._keyboard, screen = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploykit", "calibrate", *arguments],
            cwd=folder,
            stdin=screen,
            stdout=screen,
            stderr=screen,
        )
        os.close(screen)
        self.shown = ""

    def interrupt_after(self, shows: str) -> str:
        """Presses Ctrl-C once the terminal shows that, and returns all it has shown in the end."""
        deadline = time.monotonic() + 120
        while not re.search(shows, self.shown):
            assert self._read(), self.shown
            assert time.monotonic() < deadline, self.shown
        self.process.send_signal(signal.SIGINT)
        while self._read():
            pass
        self.process.wait(timeout=60)
        os.close(self._keyboard)
        return self.shown

    def _read(self) -> bool:
        try:
            chunk = os.read(self._keyboard, 4096)
        except OSError:  # EIO: it has ended
            return False
        self.shown += chunk.decode(errors="replace")
        return bool(chunk)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images that take seconds to calibrate on."""
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(320):
        pixels = generator.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png", compress_level=0)
    return folder


def calibrated_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploykit", "calibrate", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def test_an_interrupted_calibration_resumes_to_the_same_file(random_b0, many, tmp_path):
    command = ("--onnx", str(random_b0.path), "--data", str(many), "--images", "320", "--method", "mse")
    stopped = Calibrating(*command, "-o", "r.json", folder=tmp_path)
    shown = stopped.interrupt_after(r"[1-9]\d*/320")  # the first images have been counted
    assert stopped.process.returncode == 130, shown
    assert "Traceback" not in shown
    assert files_in(tmp_path) == {"r.json.partial"}
    assert re.search(r"[Ss]topped after image \d+ of 320", shown)
    resumed = calibrated_in(tmp_path, *command, "-o", "r.json")
    (position,) = re.findall(r"note: Continuing from image (\d+) of 320", resumed.stderr)
    assert 0 < int(position) < 320
    assert files_in(tmp_path) == {"r.json"}
    whole = calibrated_in(tmp_path, *command, "-o", "whole.json")
    assert "Going on" not in whole.stderr
    assert (tmp_path / "r.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_an_interrupt_while_choosing_does_not_repeat_the_measurement(tmp_path):
    model, output = two_convolutions(tmp_path / "m.onnx"), tmp_path / "r.json"
    data = archive(tmp_path / "i.npz", 40)
    seen: list[str] = []

    def stop_choosing(what: str, done: int, total: int) -> None:
        if what == "choosing ranges":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_to_file(data, onnx=model, output=output, progress=stop_choosing)
    assert output.with_name("r.json.partial").is_file()
    _, resumed = calibrate_to_file(
        data, onnx=model, output=output, progress=lambda what, *_: seen.append(what)
    )
    assert set(seen) == {"choosing ranges"}
    _, whole = calibrate_to_file(data, onnx=model, output=tmp_path / "whole.json")
    assert resumed.sha256 == whole.sha256
    assert not output.with_name("r.json.partial").exists()


def stop(model: Path, data: Path, output: Path) -> bytes:
    """Calibrates on an archive until the first batch is counted; what it has kept then."""

    def progress(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_to_file(data, onnx=model, method="max", output=output, progress=progress)
    return output.with_name(f"{output.name}.partial").read_bytes()


@pytest.mark.parametrize("kept", ["of other images", "of another model", "damaged", "empty"])
def test_the_checkpoint_of_another_calibration_is_overwritten(tmp_path, kept):
    model, other = (two_convolutions(tmp_path / f"{name}.onnx", weight=name == "m") for name in ("m", "o"))
    data, others = (archive(tmp_path / f"{seed}.npz", 40, seed=seed) for seed in (0, 1))
    output = tmp_path / "r.json"
    partial = output.with_name("r.json.partial")
    match kept:
        case "of other images":
            stop(model, others, output)
        case "of another model":
            stop(other, data, output)
        case "damaged":
            partial.write_bytes(stop(model, data, output)[:-30])
        case "empty":
            partial.write_bytes(b"")
    foreign, notes = partial.read_bytes(), []
    assert stop(model, data, output) != foreign
    partial.write_bytes(foreign)
    _, ranges = calibrate_to_file(data, onnx=model, method="max", output=output, note=notes.append)
    assert not any("Continuing" in note for note in notes)
    assert ranges.images == 40
    assert not partial.exists()
    _, untouched = calibrate_to_file(data, onnx=model, method="max", output=tmp_path / "fresh.json")
    assert ranges.sha256 == untouched.sha256
