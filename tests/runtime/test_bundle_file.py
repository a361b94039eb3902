"""Modified bundles are refused completely, by everything that opens them, with a DeployError."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import refuses
from small_models import colour_blocks

from deploykit.engine.build import build_engine
from deploykit.engine.manifest import is_bundle
from deploykit.runtime import Engine
from deploykit.runtime.bundle.archive import (
    CONTENTS_NAME,
    MAX_CONTENTS_BYTES,
    MODEL_NAME,
    read_bundle_contents,
    verify_bundle_files,
)
from deploykit.runtime.bundle.bundle import Bundle, write_bundle
from deploykit.util.errors import DeployError
from deploykit.util.json_io import to_sealed_json

PLAN = "plans/0.engine"
CENTRAL_HEADER = b"PK\x01\x02"

Change = Callable[[str, bytes], bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bundled(tmp_path_factory) -> Path:
    """A bundle with a plan that runs here."""
    folder = tmp_path_factory.mktemp("bundle")
    model = colour_blocks(folder / "model.onnx")
    engine = build_engine(onnx=model, gpu="cpu", output=folder / "cpu.engine").path
    return write_bundle(model, [engine], output=folder / "b.dkb").path


def rewritten(bundled: Path, path: Path, change: Change = lambda name, data: data, **options) -> Path:
    """Return a copy changed by change(name, data); `of` names the file that the options apply to."""
    of = options.pop("of", None)
    with zipfile.ZipFile(bundled) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)), **(options if of in (None, name) else {}))
    return path


def with_contents(bundled: Path, path: Path, change: Callable[[dict], None]) -> Path:
    """Return a copy with other contents and a valid seal."""

    def changed(name: str, data: bytes) -> bytes:
        if name != CONTENTS_NAME:
            return data
        contents = json.loads(data)
        del contents["seal_sha256"]
        change(contents)
        return to_sealed_json(contents).encode()

    return rewritten(bundled, path, changed)


def flipped(bundled: Path, path: Path, name: str) -> Path:
    """Return a copy with one flipped bit in a file; the archive's headers are unchanged."""
    data = bytearray(bundled.read_bytes())
    with zipfile.ZipFile(bundled) as archive:
        at = data.index(archive.read(name))
    data[at + 9] ^= 1
    path.write_bytes(data)
    return path


def without(bundled: Path, path: Path, name: str) -> Path:
    with zipfile.ZipFile(bundled) as source, zipfile.ZipFile(path, "w") as target:
        for each in source.namelist():
            if each != name:
                target.writestr(each, source.read(each))
    return path


def twice(bundled: Path, path: Path, name: str) -> Path:
    rewritten(bundled, path)
    with zipfile.ZipFile(bundled) as source, zipfile.ZipFile(path, "a") as target:
        target.writestr(name, source.read(name))
    return path


def longer(bundled: Path, path: Path, name: str) -> Path:
    return rewritten(bundled, path, lambda each, data: data + b"." if each == name else data)


def compressed(bundled: Path, path: Path, name: str) -> Path:
    return rewritten(bundled, path, of=name, compress_type=zipfile.ZIP_DEFLATED)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [MODEL_NAME, PLAN])
@pytest.mark.parametrize("damage", [flipped, without, twice, longer, compressed])
def test_check_and_load_refuse_a_damaged_bundle_with_the_same_error(
    run, bundled, tmp_path, cache, *, damage, name
):
    damage(bundled, tmp_path / "x.dkb", name)
    checked = run("check", "x.dkb")
    assert (checked.status, checked.out) == (2, "")
    with refuses("bundle-damaged") as refused:
        Engine.load(Path("x.dkb"))
    assert refused.value.problem.startswith(f"{name} in x.dkb ")
    assert checked.err == f"error: {refused.value.problem} [bundle-damaged]\n  fix: {refused.value.fix}\n"
    assert not cache.exists()


def test_an_undamaged_copy_is_accepted(run, bundled, tmp_path):
    """Rewriting a bundle without a change does not damage it."""
    rewritten(bundled, tmp_path / "x.dkb")
    assert run("check", "x.dkb").status == 0
    Engine.load(tmp_path / "x.dkb").close()


@pytest.mark.parametrize("name", ["../../x.engine", "/etc/x.engine", "plans/../x.engine", "plans/a.engine"])
def test_a_plan_name_cannot_point_outside_the_archive(bundled, tmp_path, name):
    def rename(contents: dict) -> None:
        contents["plans"][0]["name"] = name

    with refuses("bundle-damaged"):
        Bundle(with_contents(bundled, tmp_path / "x.dkb", rename))


def test_modified_contents_are_refused(bundled, tmp_path):
    altered = rewritten(
        bundled,
        tmp_path / "x.dkb",
        lambda name, data: (
            data.replace(b'"precision": "fp16"', b'"precision": "fp32"') if name == CONTENTS_NAME else data
        ),
    )
    with refuses("bundle-damaged"):
        Bundle(altered)


def test_sizes_out_of_range_are_refused(bundled, tmp_path):
    def shrink(contents: dict) -> None:
        contents["batches"][0]["max"] = 0

    with refuses("bundle-damaged") as caught:
        Bundle(with_contents(bundled, tmp_path / "x.dkb", shrink))
    assert "1,1,0" in caught.value.problem


def test_a_bundle_json_that_is_too_large_is_refused(bundled, tmp_path):
    long = rewritten(
        bundled,
        tmp_path / "x.dkb",
        lambda name, data: data.ljust(MAX_CONTENTS_BYTES + 1) if name == CONTENTS_NAME else data,
    )
    with refuses("bundle-damaged") as caught:
        Bundle(long)
    assert "too large" in caught.value.problem


def test_a_bundle_json_that_would_be_too_large_is_not_written(bundled, tmp_path, monkeypatch):
    monkeypatch.setattr("deploykit.runtime.bundle.archive.MAX_CONTENTS_BYTES", 100)
    with refuses("bundle-too-large"):
        write_bundle(bundled.with_name("model.onnx"), output=tmp_path / "x.dkb")
    assert not (tmp_path / "x.dkb").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_bundle_json_is_refused(bundled, tmp_path, method):
    """A small one could unpack to more than the memory."""
    with refuses("bundle-damaged") as caught:
        Bundle(rewritten(bundled, tmp_path / "x.dkb", of=CONTENTS_NAME, compress_type=method))
    assert "bundle.json is compressed" in caught.value.problem


def altered_header(bundled: Path, path: Path, name: str, at: int, value: int, *, kind: str = "<H") -> Path:
    """Return a copy with another value in the central header of a file."""
    data = bytearray(bundled.read_bytes())
    header = data.rindex(name.encode()) - 46
    assert data[header : header + 4] == CENTRAL_HEADER
    struct.pack_into(kind, data, header + at, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", [CONTENTS_NAME, PLAN])
@pytest.mark.parametrize(
    ("at", "value", "kind"),
    [
        (8, 1, "<H"),  # encrypted: RuntimeError
        (8, 0x20, "<H"),  # patched: NotImplementedError
        (6, 99, "<H"),  # of a later version of ZIP: NotImplementedError
        (10, 77, "<H"),  # compressed by an unknown method: NotImplementedError
        (42, 2**31 - 1, "<I"),  # beyond the end of the file
    ],
)
def test_an_invalid_zip_header_is_a_deploy_error(bundled, tmp_path, *, name, at, value, kind):
    altered = altered_header(bundled, tmp_path / "x.dkb", name, at, value, kind=kind)
    with pytest.raises(DeployError):
        verify_bundle_files(altered, read_bundle_contents(altered)[0])


def test_a_file_shorter_than_the_archive_states_is_refused(bundled, tmp_path):
    """zipfile raises an EOFError without a message."""
    longer = altered_header(bundled, tmp_path / "x.dkb", PLAN, 20, 2**31 - 1, kind="<I")
    longer = altered_header(longer, tmp_path / "x.dkb", PLAN, 24, 2**31 - 1, kind="<I")
    with refuses("bundle-damaged") as caught:
        verify_bundle_files(longer, read_bundle_contents(longer)[0])
    assert caught.value.problem.startswith(f"{PLAN} in ")
    assert "truncated" in caught.value.problem


def test_changing_any_byte_of_the_zip_structure_raises_only_deploy_errors(bundled, tmp_path):
    sound = bundled.read_bytes()
    altered, refused = tmp_path / "x.dkb", 0
    for at in [*range(30), *range(sound.index(CENTRAL_HEADER), len(sound))]:
        for value in {0, 1, 99, 255} - {sound[at]}:
            altered.write_bytes(sound[:at] + bytes([value]) + sound[at + 1 :])
            try:
                verify_bundle_files(altered, read_bundle_contents(altered)[0])
            except DeployError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"no bundle"], ids=["empty", "a zip's first bytes", "text"]
)
def test_garbage_is_refused(run, tmp_path, content):
    (tmp_path / "x.dkb").write_bytes(content)
    refused = run("check", "x.dkb")
    assert (refused.status, refused.code) == (2, "bundle-damaged")


def test_every_command_refuses_a_truncated_bundle(run, bundled, tmp_path):
    (tmp_path / "cut.dkb").write_bytes(bundled.read_bytes()[:-100])
    assert is_bundle(tmp_path / "cut.dkb")
    for command in (["check"], ["bench"], ["eval", "--data", "generated"]):
        refused = run(command[0], "cut.dkb", *command[1:])
        assert (refused.status, refused.out) == (2, "")
        assert refused.code == "bundle-damaged"
