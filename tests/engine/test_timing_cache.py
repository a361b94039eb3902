"""TensorRT's own objects need its libraries; what stands for them here does as its documentation says."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploykit.engine.targets import Target
from deploykit.engine.timing_cache import TimingCache, timing_cache_path

T4 = Target(name="NVIDIA Tesla T4", compiler="tensorrt", sm=75)
TRT = SimpleNamespace(__version__="10.16.1.11")


@dataclass
class Cache:
    data: bytes

    def serialize(self) -> bytes:
        return self.data


@dataclass
class Config:
    """A builder's configuration: takes what it wrote itself, and has made timings when the build is over."""

    cache: Cache | None = None
    takes: list[bytes] = field(default_factory=list)

    def create_timing_cache(self, data: bytes) -> Cache | None:
        self.takes.append(data)
        return Cache(data) if data in (b"", b"timings") else None

    def set_timing_cache(self, cache: Cache, *, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache and Cache(b"timings")


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return timing_cache_path(T4, TRT.__version__)


def test_each_version_and_gpu_has_a_separate_file_in_the_users_cache(tmp_path, path):
    assert path == tmp_path / "deploykit" / "timing" / "tensorrt-10.16.1.11-nvidia-tesla-t4-sm75.cache"
    assert timing_cache_path(T4, "11.4.0.106") != path


def test_a_gpu_name_can_not_escape_the_cache_folder(tmp_path):
    hostile = Target(name="../../etc/T4 \n", compiler="tensorrt", sm=75)
    assert timing_cache_path(hostile, "10").parent == tmp_path / "deploykit" / "timing"


def test_a_build_saves_its_timings_for_the_next_which_records_their_digest(path, caplog):
    first = TimingCache(TRT, Config(), T4)
    assert first.sha256 is None
    first.save()
    assert path.read_bytes() == b"timings"
    # Of sha256sum.
    assert (
        TimingCache(TRT, Config(), T4).sha256
        == "66bd9848d31e5b7971dc8f87f2096f42d7687a64ee30b0875ad5eb08321deaf7"
    )
    assert caplog.messages == []


def test_a_compiler_that_uses_no_timing_cache_gets_none(path):
    config = Config()
    timings = TimingCache(TRT, config, Target(name="T4", compiler="tensorrt-rtx", sm=75))
    timings.save()
    assert (timings.sha256, config.takes, path.exists()) == (None, [], False)


def test_timings_that_the_compiler_refuses_are_replaced_by_empty_ones(path, caplog):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    config = Config()
    timings = TimingCache(TRT, config, T4)
    assert (timings.sha256, config.takes) == (None, [b"damaged", b""])
    assert "starting an empty one" in caplog.text
    timings.save()
    assert path.read_bytes() == b"timings"


def test_an_unwritable_cache_folder_does_not_fail_a_build(tmp_path, caplog):
    (tmp_path / "deploykit").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        TimingCache(TRT, Config(), T4).save()
    assert "Kernel timings are not saved" in caplog.text


def test_an_unreadable_timing_cache_is_ignored(path, caplog):
    path.mkdir(parents=True)
    assert TimingCache(TRT, Config(), T4).sha256 is None
    assert "can't be read" in caplog.text
