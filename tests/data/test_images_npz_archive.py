import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses

from deploykit.data.images import Images, open_images
from deploykit.data.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(side_px=8, mean=(0, 0, 0), std=(1, 1, 1))
ZEROS = np.zeros((2, 8, 8, 3), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)


def open_small(path: Path, *, limit: int = 100) -> Images:
    return open_images(path, PREPROCESSING, limit=limit)


def pixels(images: Images, **options) -> np.ndarray:
    inputs = np.concatenate([batch.inputs for batch in images.batches(3, **options)])
    return (inputs * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_equal_what_numpy_saved(tmp_path, save):
    save(tmp_path / "noise.npz", images=NOISE)
    np.testing.assert_array_equal(pixels(open_small(tmp_path / "noise.npz")), NOISE)
    some = open_small(tmp_path / "noise.npz").subset([3, 4, 11, 19])
    np.testing.assert_array_equal(pixels(some), NOISE[[3, 4, 11, 19]])


def test_drawn_images_keep_their_labels_and_classes(tmp_path):
    np.savez(
        tmp_path / "two.npz",
        images=NOISE,
        labels=np.arange(20, dtype=np.uint8) % 2,
        classes=np.array(["cat", "dog"]),
    )
    images = open_small(tmp_path / "two.npz", limit=5)
    # 5 evenly spaced images of 20 are 0, 4, 8, 12 and 16, all of class 0; one is replaced by class 1.
    assert sorted(images.labels.tolist()) == [0, 0, 0, 0, 1]
    np.testing.assert_array_equal(pixels(images)[images.labels == 1], NOISE[[1]])
    assert images.labels.dtype == np.int64
    assert images.classes == ("cat", "dog")
    assert open_small(tmp_path / "two.npz").labels.tolist() == [0, 1] * 10


def test_labels_are_optional(tmp_path):
    np.savez(tmp_path / "bare.npz", images=NOISE)
    images = open_small(tmp_path / "bare.npz")
    assert images.labels is None
    assert images.classes is None


@pytest.mark.parametrize(
    ("arrays", "code", "named"),
    [
        ({"labels": np.zeros(3, int)}, "archive-invalid", r"labels .*wrong\.npz .*int64.*\(3,\).* 2 images"),
        ({"labels": np.zeros((2, 1), int)}, "archive-invalid", r"int64.*\(2, 1\).* 2 images"),
        ({"labels": np.zeros(2)}, "archive-invalid", r"labels.* float64"),
        ({"labels": np.zeros(2, bool)}, "archive-invalid", "labels.* bool"),
        ({"labels": np.array([0, -1])}, "label-invalid", "Label -1 of image 1"),
        (
            {"labels": np.array([2, 0]), "classes": np.array(["a", "b"])},
            "label-invalid",
            "Label 2 of image 0.* 0 to 1",
        ),
        ({"labels": np.array([2**64 - 1, 0], np.uint64)}, "label-invalid", "of image 0"),
        ({"labels": np.array([0, {}], object)}, "archive-invalid", "labels.* object"),
        ({"classes": np.array([1, 2])}, "archive-invalid", r"classes.* int64.*\(2,\)"),
        ({"classes": np.array("cat")}, "archive-invalid", r"classes.* <U3.*\(\)"),
    ],
)
def test_invalid_labels_are_refused(tmp_path, arrays, code, named):
    np.savez(tmp_path / "wrong.npz", images=ZEROS, **arrays)
    with refuses(code) as caught:
        open_small(tmp_path / "wrong.npz")
    assert re.search(named, caught.value.problem)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8, 3), np.int64),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((2, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
    ids=lambda images: f"{images.dtype}{images.shape}",
)
def test_images_of_another_shape_or_type_are_refused(tmp_path, images):
    np.savez(tmp_path / "wrong.npz", images=images)
    with refuses("archive-invalid") as caught:
        open_small(tmp_path / "wrong.npz")
    assert "(n, height, width, 3)" in caught.value.fix


def test_images_in_fortran_order_are_refused_with_the_fix(tmp_path):
    np.savez(tmp_path / "fortran.npz", images=np.asfortranarray(NOISE))
    with refuses("archive-invalid") as caught:
        open_small(tmp_path / "fortran.npz")
    assert "ascontiguousarray" in caught.value.fix


@pytest.mark.parametrize(
    "arrays",
    [{"labels": np.zeros(3)}, {"images": np.array([{"a": 1}], dtype=object)}],
    ids=["none", "pickles"],
)
def test_an_archive_without_readable_images_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "none.npz", **arrays)
    with refuses("archive-invalid"):
        open_small(tmp_path / "none.npz")


def test_a_single_array_named_npz_is_refused(tmp_path):
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, ZEROS)
    with refuses("archive-invalid"):
        open_small(tmp_path / "array.npz")


def test_a_truncated_archive_is_refused_at_once(tmp_path):
    path = tmp_path / "damaged.npz"
    np.savez_compressed(path, images=NOISE)
    whole = path.read_bytes()
    for damaged in (b"", b"no archive", whole[:-100], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with refuses("archive-invalid"):
            open_small(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("limit", [2, 400])
def test_damage_is_found_even_in_images_that_are_not_drawn(tmp_path, save, limit):
    path = tmp_path / "damaged.npz"
    save(path, images=np.tile(NOISE, (20, 1, 1, 1)))
    content = bytearray(path.read_bytes())
    content[path.stat().st_size * 3 // 4] ^= 0xFF  # a pixel after the last of the two drawn images
    path.write_bytes(content)
    with refuses("archive-invalid"):
        pixels(open_images(path, PREPROCESSING, limit=limit))


def test_a_damaged_archive_is_not_skipped_as_one_bad_image(tmp_path):
    path = tmp_path / "damaged.npz"
    np.savez(path, images=NOISE)
    content = bytearray(path.read_bytes())
    content[2500] ^= 0xFF
    path.write_bytes(content)
    with refuses("archive-invalid"):
        pixels(open_small(path), on_skipped=lambda error: None)


def npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"\x93NUMPY\x09\x00",
        npy("nonsense"),
        npy("{'descr': '|u1', 'fortran_order': False}"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8, 8, 3)}") + b"\0" * 383,
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8, 8, 3)}") + b"\0" * 385,
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904, 4, 4, 3)}"),
    ],
)
def test_a_member_that_contradicts_its_header_is_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("images.npy", member)
    with refuses("archive-invalid"):
        open_small(tmp_path / "odd.npz")


def test_huge_images_are_refused_before_they_are_read(tmp_path):
    header = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 100000, 100000, 3)}")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("images.npy", header)
    with refuses("archive-invalid"):
        open_small(tmp_path / "bomb.npz")


@pytest.mark.parametrize("damage", ["labels", "classes"])
def test_the_error_names_the_damaged_array(tmp_path, damage):
    np.savez(tmp_path / "whole.npz", images=ZEROS, labels=np.zeros(2, int), classes=np.array(["a", "b"]))
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "odd.npz", "w") as odd:
        for name in whole.namelist():
            content = whole.read(name)
            odd.writestr(name, content[:-4] if name == f"{damage}.npy" else content)
    with refuses("archive-invalid"):
        open_small(tmp_path / "odd.npz")


def test_an_archive_that_is_replaced_during_use_is_noticed(tmp_path):
    np.savez(tmp_path / "a.npz", images=NOISE)
    images = open_small(tmp_path / "a.npz")
    for others in (ZEROS, NOISE.reshape(20, 16, 4, 3)):
        np.savez(tmp_path / "a.npz", images=others)
        with refuses("archive-invalid"):
            pixels(images)
    (tmp_path / "a.npz").unlink()
    with refuses("file-not-found"):
        _ = images.sha256


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_archive_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=ZEROS)
    (tmp_path / "a.npz").chmod(0)
    with refuses("file-unreadable"):
        open_small(tmp_path / "a.npz")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    # 512 images of 150,528 bytes are 77 MB, and 64 of them a tenth of that.
    program = """
import re, sys
from pathlib import Path
from deploykit.data.images import open_images
from deploykit.data.preprocessing import Preprocessing
images = open_images(sys.argv[1], Preprocessing(side_px=224), limit=512)
assert sum(len(batch.inputs) for batch in images.batches(8)) == int(sys.argv[2])
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""

    def peak_mb(count: int) -> float:
        path = tmp_path / f"{count}.npz"
        np.savez_compressed(path, images=np.zeros((count, 224, 224, 3), np.uint8))
        done = subprocess.run(
            [sys.executable, "-c", program, str(path), str(count)],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        return float(done.stdout)

    assert peak_mb(512) - peak_mb(64) < 20
