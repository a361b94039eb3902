"""Heavy libraries, imported on first use."""

import sys

import pytest
from refusals import refuses

from deploykit.util.install_hint import install_hint
from deploykit.util.lazy_import import require


def test_a_library_that_is_there_is_returned():
    assert require("onnxruntime") is sys.modules["onnxruntime"]


@pytest.mark.parametrize(("module", "name"), [("torch", "PyTorch"), ("tensorrt_rtx", "TensorRT-RTX")])
def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)  # its import raises ImportError
    with refuses("dependency-missing") as raised:
        require(module, extra="gpu")
    assert raised.value.fix == install_hint("gpu")


def test_onnxruntime_writes_nothing_home(tmp_path):
    import os
    import subprocess

    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    code = "from deploykit.util.lazy_import import require; require('onnxruntime')"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_import_is_an_interrupt(tmp_path, monkeypatch):
    (tmp_path / "stopped.py").write_text(
        "try:\n    raise KeyboardInterrupt\nexcept KeyboardInterrupt as error:\n"
        "    raise ImportError('initialization failed') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        require("stopped")
