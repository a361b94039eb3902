"""Detection of this machine's GPU."""

import sys

import pytest

from deploykit.util import local_gpu as module
from deploykit.util.install_hint import install_hint
from deploykit.util.local_gpu import local_gpu


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Let every test detect the GPU again, without cuda-core."""
    monkeypatch.setitem(sys.modules, "cuda.core", None)  # its import raises ImportError
    local_gpu.cache_clear()
    yield
    local_gpu.cache_clear()


def test_without_a_driver_a_missing_gpu_is_not_logged(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(module, "_DRIVER", tmp_path / "none")
    assert local_gpu() is None
    assert not caplog.records


def test_an_unreachable_gpu_is_logged_once(monkeypatch, tmp_path, caplog):
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module")
    monkeypatch.setattr(module, "_DRIVER", driver)
    assert local_gpu() is None
    assert local_gpu() is None
    (record,) = caplog.records
    assert "can't be reached" in record.getMessage()
    assert install_hint("gpu") in record.getMessage()
