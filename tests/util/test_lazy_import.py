"""Imports of heavy libraries on first use."""

import sys

import pytest
from refusals import refuses

from deploykit.util.install_hint import install_hint
from deploykit.util.lazy_import import require


def test_an_installed_library_is_returned():
    assert require("onnxruntime") is sys.modules["onnxruntime"]


@pytest.mark.parametrize(("module", "name"), [("torch", "PyTorch"), ("tensorrt_rtx", "TensorRT-RTX")])
def test_the_fix_for_a_missing_library_names_its_extra(monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)  # its import raises ImportError
    with refuses("dependency-missing") as raised:
        require(module, extra="gpu")
    assert raised.value.fix == install_hint("gpu")


def test_onnxruntime_writes_nothing_to_the_home_folder(tmp_path):
    import os
    import subprocess

    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    code = "from deploykit.util.lazy_import import require; require('onnxruntime')"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_import_raises_keyboard_interrupt(tmp_path, monkeypatch):
    (tmp_path / "stopped.py").write_text(
        "try:\n    raise KeyboardInterrupt\nexcept KeyboardInterrupt as error:\n"
        "    raise ImportError('initialization failed') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        require("stopped")
