import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

from deploykit.data.images import Images, open_images, write_image_manifest
from deploykit.data.preprocessing import Overrides, Preprocessing
from deploykit.util.errors import DeployError

ROOT = Path(__file__).parents[2]
PREPROCESSING = Preprocessing(side_px=16, mean=(0, 0, 0), std=(1, 1, 1))
SHA256 = "0" * 64


def save_folder(folder: Path, count: int = 6) -> Path:
    for value in range(count):
        (folder / f"class{value % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (value,) * 3).save(folder / f"class{value % 2}" / f"{value}.png")
    return folder


def drawn(images: Images) -> list[int]:
    return [round(255 * float(image[0, 0, 0])) for batch in images.batches(4) for image in batch.inputs]


def reopen(path: Path, *, limit: int | None = None, **options) -> Images:
    return open_images(path, PREPROCESSING, limit=limit, **options)


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize("kind", ["folder", "archive", "generated"])
def test_a_manifest_draws_the_same_images_again(tmp_path, kind, seed):
    save_folder(tmp_path / "photos")
    np.savez(
        tmp_path / "all.npz",
        images=np.arange(6, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 16, 16, 3), np.uint8),
    )
    data = {"folder": tmp_path / "photos", "archive": tmp_path / "all.npz", "generated": "generated"}[kind]
    first = open_images(data, PREPROCESSING, limit=4, seed=seed)
    path = tmp_path / "calibration" / "mine.toml"
    write_image_manifest(path, first)
    again = reopen(path)
    assert drawn(again) == drawn(first)
    assert again.count == again.requested == 4
    assert again.source == str(path)
    assert again.sha256 == first.sha256
    assert again.labels is None if first.labels is None else again.labels.tolist() == first.labels.tolist()


def test_a_manifests_source_is_relative_to_its_folder(tmp_path, monkeypatch):
    save_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    write_image_manifest(Path("calibration/mine.toml"), open_images("photos", PREPROCESSING, limit=3))
    table = tomllib.loads(Path("calibration/mine.toml").read_text())
    assert table["source"] == "../photos"
    assert set(table) == {"source", "count", "sha256"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert reopen(tmp_path / "calibration" / "mine.toml").count == 3
    (tmp_path / "calibration").rename(tmp_path / "moved")
    (tmp_path / "photos").rename(tmp_path / "moved" / "photos")
    with refuses("image-manifest-invalid"):
        reopen(tmp_path / "moved" / "mine.toml")


@pytest.mark.parametrize("name", ["generated", 'quo"ted', "back\\slash", "tab\tand\x7f", "größe"])
def test_folders_with_special_names_are_found_again(tmp_path, name):
    save_folder(tmp_path / name)
    write_image_manifest(tmp_path / "mine.toml", open_images(tmp_path / name, PREPROCESSING, limit=6))
    assert reopen(tmp_path / "mine.toml").available == 6
    assert drawn(reopen(tmp_path / "mine.toml")) == [0, 2, 4, 1, 3, 5]


def test_a_path_that_is_not_utf8_is_refused(tmp_path):
    save_folder(tmp_path / "\udcff")
    with refuses("invalid-file-name"):
        write_image_manifest(tmp_path / "mine.toml", open_images(tmp_path / "\udcff", PREPROCESSING, limit=6))
    assert not (tmp_path / "mine.toml").exists()


def test_preprocessing_of_user_overrides_manifest_overrides_model(tmp_path):
    images = open_images("generated", PREPROCESSING, limit=2)
    write_image_manifest(
        tmp_path / "mine.toml", images, overrides=Overrides(mean=(0.5, 0.25, 0), interpolation="lanczos")
    )
    assert reopen(tmp_path / "mine.toml").preprocessing == Preprocessing(
        side_px=16, mean=(0.5, 0.25, 0), std=(1, 1, 1), interpolation="lanczos"
    )
    set_by_user = reopen(tmp_path / "mine.toml", overrides=Overrides(mean=(0, 0, 0), crop_padding_px=0))
    assert set_by_user.preprocessing == Preprocessing(
        side_px=16, mean=(0, 0, 0), std=(1, 1, 1), interpolation="lanczos", crop_padding_px=0
    )


def test_a_limit_draws_fewer_images_than_the_manifest(tmp_path):
    save_folder(tmp_path / "photos")
    write_image_manifest(tmp_path / "mine.toml", open_images(tmp_path / "photos", PREPROCESSING, limit=6))
    few = reopen(tmp_path / "mine.toml", limit=2)
    assert (few.count, few.requested, drawn(few)) == (2, 2, [0, 1])
    assert few.labels.tolist() == [0, 1]
    assert reopen(tmp_path / "mine.toml", limit=100).requested == 6


@pytest.mark.parametrize("change", ["more", "other pixels", "other name"])
def test_changed_images_are_refused_with_the_new_digest(tmp_path, change):
    folder = save_folder(tmp_path / "photos")
    write_image_manifest(tmp_path / "mine.toml", open_images(folder, PREPROCESSING, limit=5))
    if change == "more":
        Image.new("RGB", (16, 16)).save(folder / "class0" / "0a.png")
    elif change == "other pixels":
        Image.new("RGB", (16, 16), (99, 0, 0)).save(folder / "class0" / "0.png")
    else:
        (folder / "class0" / "0.png").rename(folder / "class0" / "00.png")
    with refuses("images-changed") as caught:
        reopen(tmp_path / "mine.toml")
    # Writing what the fix says makes it work.
    text = (tmp_path / "mine.toml").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("sha256"))
    wanted = caught.value.fix.partition("write ")[2].partition(" into")[0]
    (tmp_path / "mine.toml").write_text(text.replace(line, wanted))
    assert reopen(tmp_path / "mine.toml").count == 5


def test_missing_images_are_refused(tmp_path):
    folder = save_folder(tmp_path / "photos")
    write_image_manifest(tmp_path / "mine.toml", open_images(folder, PREPROCESSING, limit=6))
    (folder / "class0" / "0.png").unlink()
    with refuses("images-changed"):
        reopen(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "missing required field `source`"),
        ("source = ", "Invalid value"),
        ("\xff", "is not a manifest"),
        ("source = 3\ncount = 1\nsha256 = 'X'", "Expected `str`, got `int`"),
        ("source = 'a'\ncount = 1", "missing required field `sha256`"),
        ("source = 'a'\ncount = 1" + "0" * 40 + "\nsha256 = 'X'", "10{40}"),
        ("source = 'a'\ncount = 0\nsha256 = 'X'", "Expected `int` >= 1"),
        ("source = 'a'\ncount = '1'\nsha256 = 'X'", "Expected `int`, got `str`"),
        ("source = 'a'\ncount = 1.5\nsha256 = 'X'", "Expected `int`, got `float`"),
        ("source = 'a'\ncount = 1\nseed = -1\nsha256 = 'X'", "Expected `int` >= 0"),
        ("source = 'a'\ncount = 1\nsha256 = 'abc'", "sha256"),
        ("source = 'a'\ncount = 2000-01-01\nsha256 = 'X'", "Expected `int`, got `str`"),
        ("sorce = 'a'\ncount = 1\nsha256 = 'X'", "sorce .*: source, count"),
        ("source = 'a'\ncount = 1\nsha256 = 'X'\npreprocessing = 1", "preprocessing"),
        ("A[preprocessing]\nside_px = 3", r"preprocessing\.side_px"),
        ("A[preprocessing]\nmean = [0.5]", "mean"),
        ("A[preprocessing]\nmean = [nan, 0, 0]", "mean"),
        ("A[preprocessing]\ninterpolation = 'area'", "area"),
        ("source = 'other.toml'\ncount = 1\nsha256 = 'X'", r"other\.toml"),
        ("source = 'nowhere'\ncount = 1\nsha256 = 'X'", "nowhere"),
        ("source = 'generated'\ncount = 9999999\nsha256 = 'X'", "9999999"),
        ("GENERATED[preprocessing]\nstd = [0, 1, 1]", "standard deviation"),
        ("GENERATED[preprocessing]\ncrop_padding_px = -1", "crop padding"),
        ("a = " + "[" * 5000, "is not a manifest"),
    ],
)
def test_an_invalid_manifest_is_refused_with_the_location(tmp_path, text, problem):
    path = tmp_path / "wrong.toml"
    for source in ("a", "generated"):
        text = text.replace(source.upper() + "[", f"source = '{source}'\ncount = 1\nsha256 = 'X'\n[")
    path.write_text(text.replace("'X'", f"'{SHA256}'"), encoding="latin-1")
    with pytest.raises(DeployError, match=problem) as caught:
        reopen(path)
    assert "\n" not in caught.value.problem


def test_a_seed_with_a_manifest_is_refused(tmp_path):
    write_image_manifest(tmp_path / "mine.toml", open_images("generated", PREPROCESSING, limit=2))
    with refuses("option-conflict"):
        reopen(tmp_path / "mine.toml", seed=1)


def test_a_manifest_of_images_that_it_could_not_draw_again_is_refused(tmp_path):
    images = open_images("generated", PREPROCESSING, limit=4)
    write_image_manifest(tmp_path / "whole.toml", images)
    for part in (images.subset([0, 1]), reopen(tmp_path / "whole.toml")):
        with refuses("image-manifest-unsupported"):
            write_image_manifest(tmp_path / "part.toml", part)
    with refuses("invalid-output-name") as caught:
        write_image_manifest(tmp_path / "mine.json", images)
    assert "mine.toml" in caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["whole.toml"]


def test_a_folder_with_a_manifests_suffix_is_a_folder(tmp_path):
    assert reopen(save_folder(tmp_path / "photos.toml")).count == 6


@pytest.mark.parametrize("path", sorted((ROOT / "calibration").glob("*.toml")), ids=lambda path: path.name)
def test_the_committed_manifests_can_be_drawn(path):
    images = reopen(path)
    assert images.count == images.requested > 0
    assert drawn(images.subset([0]))


def test_the_committed_manifest_of_generated_images_exists():
    images = reopen(ROOT / "calibration" / "generated.toml")
    assert images.count == 512
    assert drawn(images.subset(range(3))) == drawn(open_images("generated", PREPROCESSING, limit=3))
