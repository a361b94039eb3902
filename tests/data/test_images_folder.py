import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

from deploykit.data.images.folder import class_labels, open_image_folder


def save(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)
    return path


def test_images_are_found_at_any_depth_and_sorted_by_folder_then_name(tmp_path):
    for name in ("b/2.png", "b/10.png", "a-b/1.png", "a/z.png", "top.png", "a/deep/er/x.jpg"):
        save(tmp_path / name)
    assert open_image_folder(tmp_path).names == (
        "a/deep/er/x.jpg",
        "a/z.png",
        "a-b/1.png",
        "b/10.png",
        "b/2.png",
        "top.png",
    )


def test_hidden_and_other_files_are_ignored(tmp_path):
    save(tmp_path / "photo.PNG")
    save(tmp_path / "._photo.png")
    save(tmp_path / ".thumbnails" / "photo.png")
    (tmp_path / "labels.csv").write_text("photo,cat\n")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    assert open_image_folder(tmp_path).names == ("photo.PNG",)


def test_links_are_followed_without_endless_loops(tmp_path):
    save(tmp_path / "elsewhere" / "cats" / "1.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "cat").symlink_to(tmp_path / "elsewhere" / "cats")
    (tmp_path / "elsewhere" / "cats" / "back").symlink_to(data)
    assert open_image_folder(data).names == ("cat/1.png",)


def test_one_folder_per_class_gives_labels_in_the_order_of_the_names(tmp_path):
    for name in ("dog/1.png", "cat/1.png", "cat/2.png", "owl/1.png"):
        save(tmp_path / name)
    labels, classes = class_labels(open_image_folder(tmp_path))
    assert classes == ("cat", "dog", "owl")
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 0, 1, 2]


def test_a_class_without_images_keeps_its_index(tmp_path):
    for name in ("dog/1.png", "cat/1.png"):
        save(tmp_path / name)
    (tmp_path / "cow").mkdir()
    (tmp_path / ".cache").mkdir()
    labels, classes = class_labels(open_image_folder(tmp_path))
    assert classes == ("cat", "cow", "dog")
    assert labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    "names",
    [
        ("1.png", "2.png"),
        ("cat/1.png", "dog/1.png", "stray.png"),
        ("cat/1.png", "dog/puppy/1.png"),
        ("val/cat/1.png", "val/dog/1.png"),
        ("images/1.png", "images/2.png"),  # a single folder does not make classes
    ],
)
def test_other_folder_structures_have_no_labels(tmp_path, names):
    for name in names:
        save(tmp_path / name)
    assert class_labels(open_image_folder(tmp_path)) == (None, None)


def test_the_digest_is_the_sha256_of_sha256sums_output(tmp_path):
    for value, name in enumerate(("b.png", "a/c.png", "a b.png")):
        save(tmp_path / name, value)
    folder = open_image_folder(tmp_path)
    listed = subprocess.run(["sha256sum", *folder.names], cwd=tmp_path, capture_output=True, check=True)
    printed = subprocess.run(["sha256sum"], input=listed.stdout, capture_output=True, check=True)
    assert folder.digest() == printed.stdout.split()[0].decode()


def test_the_digest_changes_with_a_name_and_with_a_pixel(tmp_path):
    path = save(tmp_path / "a.png", 1)
    first = open_image_folder(tmp_path).digest()
    renamed = path.rename(tmp_path / "b.png")
    second = open_image_folder(tmp_path).digest()
    save(renamed, 2)
    assert len({first, second, open_image_folder(tmp_path).digest()}) == 3


def test_a_file_that_disappears_does_not_stop_the_digest(tmp_path):
    save(tmp_path / "a.png")
    path = save(tmp_path / "b.png")
    folder = open_image_folder(tmp_path)
    whole = folder.digest()
    path.unlink()
    assert folder.digest() != whole


def test_names_that_are_not_utf8_are_supported(tmp_path):
    save(tmp_path / "a.png").rename(tmp_path / "\udcff.png")
    assert len(open_image_folder(tmp_path).digest()) == 64


def test_the_fix_for_a_folder_without_images_lists_the_suffixes(tmp_path):
    with refuses("images-missing") as caught:
        open_image_folder(tmp_path)
    assert ".jpeg" in caught.value.fix
