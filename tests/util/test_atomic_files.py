import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from refusals import refuses

from deploykit.util.atomic_files import file_sha256, require_writable, write_all_atomically, write_atomically
from deploykit.util.errors import DeployError


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_content_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "model.onnx"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["model.onnx"]


def test_text_is_written_as_utf_8(tmp_path):
    write_atomically(tmp_path / "a.json", "3 µs")
    assert (tmp_path / "a.json").read_bytes() == b"3 \xc2\xb5s"


def test_missing_folders_are_created(tmp_path):
    write_atomically(tmp_path / "engines" / "b0" / "model.onnx", b"x")
    assert (tmp_path / "engines" / "b0" / "model.onnx").read_bytes() == b"x"


def test_written_files_are_readable_by_others(tmp_path):
    write_atomically(tmp_path / "model.onnx", b"x")
    assert (tmp_path / "model.onnx").stat().st_mode & 0o777 == 0o644


def test_several_files_are_written_together(tmp_path):
    write_all_atomically({tmp_path / "new" / "engine": b"plan", tmp_path / "new" / "engine.json": "{}"})
    assert names_in(tmp_path / "new") == ["engine", "engine.json"]
    assert (tmp_path / "new" / "engine").read_bytes() == b"plan"
    assert (tmp_path / "new" / "engine.json").read_text() == "{}"


def test_an_open_reader_keeps_reading_the_old_content(tmp_path):
    path = tmp_path / "model.onnx"
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"


def test_a_full_disk_leaves_the_old_content_and_no_other_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    program = """
import resource, sys
from pathlib import Path
from deploykit.util.errors import DeployError
from deploykit.util.atomic_files import write_atomically, write_all_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path = Path(sys.argv[1])
write_atomically(path.with_name("small"), bytes(1000))
new = path.parent / "made" / "for" / "it"
for contents in (
    {path: bytes(1001)},
    {path.with_name("small"): b"new", path: bytes(1001)},
    {new / "small": b"new", new / "large": bytes(1001)},
):
    try:
        write_all_atomically(contents)
    except DeployError as error:
        print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, path], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert f"{path} can't be written" in result.stdout
    assert result.stdout.count("File too large") == 3
    assert (tmp_path / "small").read_bytes() == bytes(1000)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["model.onnx", "small"]


def test_an_interruption_leaves_the_old_content_and_no_other_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    program = """
import os, signal, sys, threading
from pathlib import Path
from deploykit.util.atomic_files import write_atomically
path = Path(sys.argv[1])
def interrupt():  # while the temporary file is being written
    while not any(entry.stat().st_size > 3 for entry in os.scandir(path.parent)): pass
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
write_atomically(path, bytes(2**27))
threading.Event().wait(30)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, path], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "KeyboardInterrupt" in result.stderr
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["model.onnx"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.mkdir()
    with pytest.raises(DeployError, match="can't be written: Is a directory"):
        write_atomically(path, b"x")
    assert names_in(tmp_path) == ["model.onnx"]


def test_a_failure_for_one_file_leaves_the_others_unchanged(tmp_path):
    (tmp_path / "engine").write_bytes(b"old")
    (tmp_path / "engine.json").mkdir()
    with pytest.raises(DeployError, match="can't be written: Is a directory"):
        write_all_atomically({tmp_path / "engine": b"new", tmp_path / "engine.json": "{}"})
    assert names_in(tmp_path) == ["engine", "engine.json"]
    assert (tmp_path / "engine").read_bytes() == b"old"


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DeployError, match="can't be written"):
        write_atomically(tmp_path / "file" / "model.onnx", b"x")
    with pytest.raises(DeployError, match="can't be written: Not a directory"):
        require_writable(tmp_path / "file" / "deeper" / "model.onnx")


def test_a_name_that_is_too_long_leaves_nothing_behind(tmp_path):
    with pytest.raises(DeployError, match="File name too long"):
        write_atomically(tmp_path / "made" / ("x" * 300), b"x")
    assert names_in(tmp_path) == []


def test_a_writable_path_is_accepted_and_not_created(tmp_path):
    require_writable(tmp_path / "engines" / "b0" / "model.onnx")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("place", ["folder", "/dev/null"])
def test_only_regular_files_may_be_replaced(tmp_path, place):
    (tmp_path / "folder").mkdir()
    with refuses("output-not-a-file") as caught:
        require_writable(tmp_path / place)
    assert "-o" in caught.value.fix


def test_an_output_must_not_replace_an_input(tmp_path):
    model = tmp_path / "model.onnx"
    model.touch()
    (tmp_path / "link").symlink_to(tmp_path)
    with refuses("output-is-input"):
        require_writable(tmp_path / "link" / "model.onnx", inputs=(tmp_path / "missing", model))
    require_writable(tmp_path / "engine", inputs=(model, tmp_path / "missing"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(DeployError, match="can't be written: Permission denied"):
        require_writable(tmp_path / "model.onnx")


def test_digests_are_sha_256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4's example.
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_concurrent_writers_do_not_mix_their_files(tmp_path):
    """Without a lock, a third of the runs mix files of both writers."""
    begin = threading.Barrier(2)

    def write(mark: str) -> None:
        begin.wait(60)
        write_all_atomically({tmp_path / name: mark for name in "abcdef"})

    with ThreadPoolExecutor(2) as pool:
        for _ in range(50):
            list(pool.map(write, ("one", "two")))
            assert len({path.read_text() for path in tmp_path.iterdir()}) == 1


def test_the_fix_for_an_unwritable_file_does_not_assume_an_option():
    with refuses("output-unwritable") as caught:
        write_atomically(Path("/proc/nowhere/fit.svg"), b"x")
    assert "-o" not in caught.value.fix
