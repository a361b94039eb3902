"""Images that open_images draws from every kind of source, and their batches."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses
from waiting import wait_for

from deploykit.data.images import Images, open_images
from deploykit.data.preprocessing import Overrides, Preprocessing
from deploykit.util.errors import DeployError

SIDE_PX = 32
# No normalization beyond 0..1, so that inputs are gray levels over 255.
PREPROCESSING = Preprocessing(side_px=SIDE_PX, mean=(0, 0, 0), std=(1, 1, 1))


def save(path: Path, value: int, *, side_px: int = SIDE_PX) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side_px, side_px), (value, value, value)).save(path)
    return path


def break_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("this is no image")
    return path


def open_small(data: str | Path, *, limit: int | None = 100) -> Images:
    return open_images(data, PREPROCESSING, limit=limit)


def levels(images: Images, size: int = 4, **options) -> list[int]:
    """Return the red of every image's first pixel, 0 to 255."""
    return [
        round(255 * float(image[0, 0, 0]))
        for batch in images.batches(size, **options)
        for image in batch.inputs
    ]


def save_archive(path: Path, values: list[int], **others: object) -> Path:
    pixels = np.array(values, np.uint8)[:, None, None, None] * np.ones((1, SIDE_PX, SIDE_PX, 3), np.uint8)
    np.savez(path, images=pixels, **others)
    return path


def test_a_folders_images_are_sorted_by_name(tmp_path):
    for value in (30, 10, 20):
        save(tmp_path / f"{value}.png", value)
    images = open_small(tmp_path)
    assert images.count == 3
    assert images.source == str(tmp_path)
    assert levels(images) == [10, 20, 30]


def test_a_limit_draws_equally_from_every_class_folder(tmp_path):
    for kind in range(5):
        for index in range(7):
            save(tmp_path / f"class{kind}" / f"{index}.png", kind)
    images = open_small(tmp_path, limit=10)
    assert Counter(levels(images)) == dict.fromkeys(range(5), 2)
    assert images.labels.tolist() == levels(images)


def test_a_limit_draws_evenly_from_an_archive(tmp_path):
    path = save_archive(tmp_path / "sorted.npz", [kind for kind in range(5) for _ in range(7)])
    assert Counter(levels(open_small(path, limit=10))) == dict.fromkeys(range(5), 2)


def test_a_rare_class_is_drawn(tmp_path):
    path = save_archive(tmp_path / "rare.npz", [*[10] * 40, 20, *[30] * 40], labels=[*[0] * 40, 1, *[2] * 40])
    assert sorted(set(levels(open_small(path, limit=3)))) == [10, 20, 30]


@pytest.mark.parametrize("limit", [3, 4, 1000])
def test_no_image_is_drawn_twice(tmp_path, limit):
    for value in range(4):
        save(tmp_path / "folder" / f"{value}.png", value)
    save_archive(tmp_path / "all.npz", [0, 1, 2, 3])
    for data in (tmp_path / "folder", tmp_path / "all.npz"):
        images = open_small(data, limit=limit)
        assert images.count == len(set(levels(images))) == min(limit, 4)
        assert images.requested == limit
        assert images.available == 4


def test_the_default_is_512_images():
    images = open_small("generated", limit=None)
    assert (images.count, images.requested) == (512, 512)


def test_a_seed_determines_the_random_draw(tmp_path):
    path = save_archive(tmp_path / "all.npz", list(range(40)))
    first, again, other = (
        levels(open_images(path, PREPROCESSING, limit=10, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert first != levels(open_small(path, limit=10))
    assert len(set(first)) == len(set(other)) == 10


def test_batches_are_normalized_and_the_last_one_may_be_smaller(tmp_path):
    for value in range(5):
        save(tmp_path / f"{value}.png", 255)
    batches = list(open_images(tmp_path, Preprocessing(side_px=SIDE_PX), limit=9).batches(2))
    assert [batch.inputs.shape for batch in batches] == [
        (2, 3, SIDE_PX, SIDE_PX),
        (2, 3, SIDE_PX, SIDE_PX),
        (1, 3, SIDE_PX, SIDE_PX),
    ]
    assert {batch.inputs.dtype for batch in batches} == {np.dtype(np.float32)}
    assert [batch.indices.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    # White, by hand from ImageNet's statistics: (1 - 0.485) / 0.229 and so on.
    assert batches[0].inputs[0, :, 0, 0] == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-4)


def test_overrides_change_the_inputs_and_are_recorded(tmp_path):
    save(tmp_path / "white.png", 255)
    images = open_images(
        tmp_path, PREPROCESSING, limit=1, overrides=Overrides(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1))
    )
    (batch,) = images.batches(1)
    assert batch.inputs[0, :, 0, 0].tolist() == [2, 1, 0.5]
    assert images.preprocessing.std == (0.25, 0.5, 1)


def test_batches_can_begin_in_the_middle(tmp_path):
    path = save_archive(tmp_path / "all.npz", list(range(10)))
    batches = list(open_small(path).batches(4, start=5))
    assert [batch.indices.tolist() for batch in batches] == [[5, 6, 7, 8], [9]]
    assert levels(open_small(path), start=5) == [5, 6, 7, 8, 9]
    assert levels(open_small(path), start=10) == []


def test_photographs_of_any_size_become_network_inputs(shared):
    (batch,) = open_small(shared / "photos", limit=6).batches(6)
    assert batch.inputs.shape == (6, 3, SIDE_PX, SIDE_PX)


def test_an_archive_of_the_networks_size_is_unchanged(shared):
    archive = np.load(shared / "cifar10_calib.npz")
    preprocessing = Preprocessing(side_px=64)
    images = open_images(shared / "cifar10_calib.npz", preprocessing, limit=512)
    inputs = np.concatenate([batch.inputs for batch in images.batches(100)])
    np.testing.assert_array_equal(inputs, preprocessing.normalize(archive["images"]))
    np.testing.assert_array_equal(images.labels, archive["labels"])
    assert images.classes == tuple(archive["classes"])


def test_a_broken_file_stops_the_batches_and_the_fix_names_skip_bad(tmp_path, prefetch_threads):
    save(tmp_path / "a.png", 1)
    break_file(tmp_path / "b.png")
    with refuses("image-unreadable") as caught:
        levels(open_small(tmp_path))
    assert "--skip-bad" in caught.value.fix
    assert prefetch_threads() == []


def test_broken_files_are_skipped_and_reported_on_request(tmp_path):
    for value in range(9):
        save(tmp_path / f"class{value % 2}" / f"{value}.png", value)
    break_file(tmp_path / "class0" / "4.png")
    break_file(tmp_path / "class1" / "1.png")
    images = open_small(tmp_path)
    skipped: list[DeployError] = []
    batches = list(images.batches(3, on_skipped=skipped.append))
    # class0: 0 2 4 6 8, class1: 1 3 5 7. Batches are full although two images are skipped.
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 3], [4, 6, 7], [8]]
    assert [Path(str(error).partition(" is not")[0]).name for error in skipped] == ["4.png", "1.png"]
    kept = np.concatenate([batch.indices for batch in batches])
    assert images.labels[kept].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert levels(images, on_skipped=skipped.append) == [0, 2, 6, 8, 3, 5, 7]


def test_skipping_every_image_is_an_error(tmp_path):
    for name in "abc":
        break_file(tmp_path / f"{name}.png")
    skipped: list[DeployError] = []
    with refuses("images-unreadable"):
        levels(open_small(tmp_path), on_skipped=skipped.append)
    assert len(skipped) == 3


def test_a_subset_has_its_own_indices_labels_and_digest(tmp_path):
    path = save_archive(tmp_path / "all.npz", list(range(10)), labels=np.arange(10) + 100)
    images = open_small(path)
    part = images.subset([8, 1, 5])
    assert levels(part) == [1, 5, 8]
    assert part.labels.tolist() == [101, 105, 108]
    assert part.count == part.requested == 3
    (batch,) = part.batches(4)
    assert batch.indices.tolist() == [0, 1, 2]
    assert levels(part.subset([2])) == [8]
    assert part.sha256 != images.sha256
    assert images.count == 10
    assert levels(images.subset([])) == []


@pytest.mark.parametrize("indices", [[-1], [0, 4]])
def test_a_subset_outside_the_images_is_an_error(tmp_path, indices):
    with pytest.raises(IndexError):
        open_small(save_archive(tmp_path / "all.npz", [1, 2, 3, 4])).subset(indices)


def test_the_digest_identifies_the_drawn_images(tmp_path):
    for value in range(4):
        save(tmp_path / "folder" / f"{value}.png", value)
    save_archive(tmp_path / "all.npz", [1, 2, 3, 4])
    for data in (tmp_path / "folder", tmp_path / "all.npz", "generated"):
        all_four, again, two = (open_small(data, limit=limit).sha256 for limit in (4, 4, 2))
        assert all_four == again != two
        assert len(all_four) == 64


def test_threads_end_when_the_batches_are_closed_early(tmp_path, prefetch_threads):
    batches = open_small("generated", limit=1000).batches(2)
    next(batches)
    assert prefetch_threads()
    batches.close()
    assert prefetch_threads() == []


def test_threads_end_when_the_consumer_fails(prefetch_threads):
    def take() -> None:
        for _ in open_small("generated", limit=1000).batches(2):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        take()
    wait_for(lambda: not prefetch_threads())


def test_ctrl_c_ends_a_long_run_at_once(tmp_path):
    program = """
from deploykit.data.images import open_images
from deploykit.data.preprocessing import Preprocessing
for batch in open_images("generated", Preprocessing(side_px=600), limit=100_000).batches(4):
    print(len(batch.inputs), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout.readline() == "4\n"
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, error = process.communicate(timeout=60)
        assert time.monotonic() - began < 20
    assert "KeyboardInterrupt" in error
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nowhere", "file-not-found"),
        ("nowhere.npz", "file-not-found"),
        ("nowhere.toml", "file-not-found"),
        ("empty", "images-missing"),
        ("labels.csv", "data-unsupported"),
        ("n" * 300, "file-unreadable"),
    ],
)
def test_a_source_without_images_is_refused_by_name(tmp_path, name, code):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "labels.csv").write_text("a,b\n")
    with refuses(code) as caught:
        open_small(tmp_path / name)
    assert name in caught.value.problem


def test_an_empty_name_is_refused():
    with refuses("data-missing"):
        open_small("")


@pytest.mark.parametrize("limit", [0, -1, 10**9])
def test_a_limit_out_of_range_is_refused(limit):
    with refuses("invalid-image-count"):
        open_small("generated", limit=limit)


def test_a_negative_seed_is_refused():
    with refuses("invalid-seed"):
        open_images("generated", PREPROCESSING, limit=1, seed=-1)
