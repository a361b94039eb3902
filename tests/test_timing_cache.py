from deploykit.engine.targets import Target
from deploykit.engine.timing_cache import digest, load_timing_cache, save_timing_cache, timing_cache_path

T4 = Target(name="NVIDIA Tesla T4", compiler="tensorrt", sm=75)


def test_each_version_and_gpu_has_a_file_of_its_own_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = timing_cache_path(T4, "10.16.1.11")
    assert path == tmp_path / "deploykit" / "timing" / "tensorrt-10.16.1.11-nvidia-tesla-t4-sm75.cache"
    assert timing_cache_path(T4, "11.4.0.106") != path


def test_a_gpus_name_cannot_leave_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hostile = Target(name="../../etc/T4 \n", compiler="tensorrt", sm=75)
    assert timing_cache_path(hostile, "10").parent == tmp_path / "deploykit" / "timing"


def test_what_was_saved_is_loaded_and_nothing_is_empty(tmp_path):
    path = tmp_path / "timing" / "a.cache"
    assert load_timing_cache(path) == b""
    assert digest(b"") is None
    save_timing_cache(path, b"timings")
    assert load_timing_cache(path) == b"timings"
    # Of sha256sum.
    assert digest(b"timings") == "66bd9848d31e5b7971dc8f87f2096f42d7687a64ee30b0875ad5eb08321deaf7"
