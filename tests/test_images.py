import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploykit.errors import DeployError
from deploykit.preprocessing import Preprocessing
from deploykit.quantize.images import open_images

SIDE_PX = 32
PREPROCESSING = Preprocessing(side_px=SIDE_PX)


def save(path: Path, value: int, *, side_px: int = SIDE_PX) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side_px, side_px), (value, value, value)).save(path)
    return path


def open_small(data: object, *, limit: int = 100):
    return open_images(data, PREPROCESSING, limit=limit)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a large image."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def test_a_folder_gives_its_images_in_the_order_of_their_names(tmp_path):
    for value in (30, 10, 20):
        save(tmp_path / f"{value}.png", value)
    images = open_small(tmp_path)
    assert images.count == 3
    assert images.source == str(tmp_path)
    assert [int(image[0, 0, 0]) for image in images] == [10, 20, 30]


def test_files_that_are_no_images_by_their_name_are_passed_over(tmp_path):
    save(tmp_path / "photo.PNG", 1)
    (tmp_path / "labels.csv").write_text("photo,cat\n")
    assert open_small(tmp_path).count == 1


def test_a_limit_takes_as_many_of_every_class_folder(tmp_path):
    for kind in range(5):
        for index in range(7):
            save(tmp_path / f"class{kind}" / f"{index}.png", kind)
    drawn = Counter(int(image[0, 0, 0]) for image in open_small(tmp_path, limit=10))
    assert drawn == dict.fromkeys(range(5), 2)


def test_a_limit_takes_as_many_of_every_part_of_an_archive(tmp_path):
    pixels = np.repeat(np.arange(5, dtype=np.uint8), 7)[:, None, None, None] * np.ones(
        (1, SIDE_PX, SIDE_PX, 3), np.uint8
    )
    np.savez(tmp_path / "sorted.npz", images=pixels)
    drawn = Counter(int(image[0, 0, 0]) for image in open_small(tmp_path / "sorted.npz", limit=10))
    assert drawn == dict.fromkeys(range(5), 2)


@pytest.mark.parametrize("limit", [3, 4, 1000])
def test_no_image_is_drawn_twice(tmp_path, limit):
    for value in range(4):
        save(tmp_path / f"{value}.png", value)
    np.savez(tmp_path / "all.npz", images=np.stack(list(open_small(tmp_path))))
    for data in (tmp_path, tmp_path / "all.npz"):
        images = open_small(data, limit=limit)
        assert images.count == len({int(image[0, 0, 0]) for image in images}) == min(limit, 4)


def test_batches_are_normalized_and_the_last_one_is_shorter(tmp_path):
    for value in range(5):
        save(tmp_path / f"{value}.png", 255)
    batches = list(open_small(tmp_path).batches(2))
    assert [batch.shape for batch in batches] == [
        (2, 3, SIDE_PX, SIDE_PX),
        (2, 3, SIDE_PX, SIDE_PX),
        (1, 3, SIDE_PX, SIDE_PX),
    ]
    assert {batch.dtype for batch in batches} == {np.dtype(np.float32)}
    # White, by hand from ImageNet's statistics: (1 - 0.485) / 0.229 and so on.
    assert batches[0][0, :, 0, 0] == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-4)


def test_photographs_of_any_size_become_the_networks_squares(shared):
    photos = open_small(shared / "photos", limit=6)
    assert {image.shape for image in photos} == {(SIDE_PX, SIDE_PX, 3)}


def test_an_archive_of_the_networks_size_is_left_as_it_is(shared):
    pixels = np.load(shared / "cifar10_calib.npz")["images"]
    images = open_images(shared / "cifar10_calib.npz", Preprocessing(side_px=64), limit=512)
    assert images.count == 512
    np.testing.assert_array_equal(np.stack(list(images)), pixels)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.png", b"this is no image"),
        ("empty.jpg", b""),
        ("bomb.png", png_claiming(50_000, 50_000)),
    ],
)
def test_a_broken_image_is_named(tmp_path, name, content):
    save(tmp_path / "a.png", 1)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DeployError, match=f"{name} is not a readable image") as caught:
        list(open_small(tmp_path))
    assert "remove it" in caught.value.fix


def test_an_image_cut_short_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    with pytest.raises(DeployError, match=r"cut\.png is not a readable image"):
        list(open_small(tmp_path))


def test_the_limit_on_decompression_is_pillows(tmp_path, monkeypatch):
    save(tmp_path / "photo.png", 1, side_px=100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    assert len(list(open_small(tmp_path))) == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100 // 2 - 1)  # Pillow refuses at twice the limit
    with pytest.raises(DeployError, match=r"photo\.png"):
        list(open_small(tmp_path))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere", r"There is no folder .*nowhere"),
        ("nowhere.npz", r"There is no file .*nowhere\.npz"),
        ("empty", r"empty holds no images"),
        ("labels.csv", r"labels\.csv is neither a folder nor an \.npz archive"),
    ],
)
def test_what_holds_no_images_is_refused_by_name(tmp_path, name, problem):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "labels.csv").write_text("a,b\n")
    with pytest.raises(DeployError, match=problem):
        open_small(tmp_path / name)


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
def test_an_array_of_another_kind_is_refused_with_what_it_is(tmp_path, images):
    np.savez(tmp_path / "wrong.npz", images=images)
    with pytest.raises(DeployError, match=rf"wrong\.npz are {images.dtype} \({images.shape[0]},") as caught:
        open_small(tmp_path / "wrong.npz")
    assert "uint8 (n, height, width, 3)" in caught.value.fix


def test_an_archive_without_images_is_refused(tmp_path):
    np.savez(tmp_path / "labels.npz", labels=np.zeros(3))
    with pytest.raises(DeployError, match="no readable array named images"):
        open_small(tmp_path / "labels.npz")


def test_an_archive_of_pickles_is_not_opened(tmp_path):
    np.savez(tmp_path / "pickled.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DeployError, match="no readable array named images"):
        open_small(tmp_path / "pickled.npz")


def write_archive(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    np.savez_compressed(path, images=noise)
    return path.read_bytes()


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "damaged.npz"
    whole = write_archive(path)
    for damaged in (b"", b"no archive", whole[:-100], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DeployError, match=r"damaged\.npz holds no readable array"):
            open_small(path)


def test_an_archive_with_damaged_bytes_inside_is_refused(tmp_path):
    path = tmp_path / "damaged.npz"
    whole = bytearray(write_archive(path))
    whole[60:2000] = b"\xff" * 1940
    path.write_bytes(whole)
    with pytest.raises(DeployError, match=r"damaged\.npz holds no readable array"):
        open_small(path)


def test_a_single_array_named_npz_is_refused(tmp_path):
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(DeployError, match=r"array\.npz holds no readable array"):
        open_small(tmp_path / "array.npz")


@pytest.mark.parametrize("limit", [0, -1, 10**9])
def test_a_limit_that_makes_no_sense_is_refused(limit):
    with pytest.raises(DeployError, match=f"{limit} images are not between 1 and"):
        open_small("generated", limit=limit)


def test_generated_images_are_the_same_each_time_and_differ_from_each_other():
    first, second = (np.stack(list(open_small("generated", limit=4))) for _ in range(2))
    assert first.shape == (4, SIDE_PX, SIDE_PX, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert len({image.tobytes() for image in first}) == 4


def test_more_generated_images_begin_with_the_same_ones():
    few, many = (list(open_small("generated", limit=limit)) for limit in (2, 4))
    np.testing.assert_array_equal(np.stack(few), np.stack(many[:2]))


def correlation(images: np.ndarray, distance_px: int) -> float:
    """Of pixels so far apart in a row, over all the images."""
    return float(np.corrcoef(images[:, :, :-distance_px].ravel(), images[:, :, distance_px:].ravel())[0, 1])


def test_generated_images_have_the_spectrum_of_natural_ones():
    images = open_images("generated", Preprocessing(side_px=128), limit=24)
    gray = np.stack([image.mean(axis=2) for image in images])
    # Field, J. Opt. Soc. Am. A 4, 1987: natural amplitude spectra fall as 1/f, their power as 1/f^2.
    power = (np.abs(np.fft.fft2(gray - gray.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    octaves = [(low <= frequency) & (frequency < 2 * low) for low in 2.0 ** np.arange(-6, -1)]
    heights = [np.log2(power[octave].mean()) for octave in octaves]
    assert np.polyfit(range(len(heights)), heights, 1)[0] == pytest.approx(-2, abs=0.6)
    assert correlation(gray, 1) > 0.8
    assert correlation(gray, 64) < 0.5
