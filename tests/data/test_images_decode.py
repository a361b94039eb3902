import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

from deploykit.data.images.decode import decode
from deploykit.data.preprocessing import Preprocessing
from deploykit.util.errors import DeployError

PREPROCESSING = Preprocessing(side_px=32)


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header declares a large image."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def noise_file(path: Path, **options: object) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.png", b"this is no image", "unknown format"),
        ("empty.jpg", b"", "unknown format"),
        ("bomb.png", png_claiming(50_000, 50_000), "too many pixels"),  # 2,500 million
        ("warning.png", png_claiming(10_000, 10_000), "10000 x 10000 pixels"),
    ],
)
def test_the_error_about_a_broken_image_names_it_and_the_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.warns() if name == "warning.png" else warnings.catch_warnings():  # noqa: SIM117
        with refuses("image-unreadable") as caught:
            decode(tmp_path / name, PREPROCESSING)
    assert name in caught.value.problem
    assert reason in caught.value.problem
    assert "--skip-bad" in caught.value.fix


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "bmp", "ppm"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    path = noise_file(tmp_path / f"photo.{suffix}")
    assert decode(path, PREPROCESSING).shape == (32, 32, 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with refuses("image-unreadable"):
        decode(path, PREPROCESSING)


def test_a_missing_file_is_refused(tmp_path):
    with refuses("image-unreadable"):
        decode(tmp_path / "gone.png", PREPROCESSING)


def test_the_pixel_limit_is_the_one_from_which_pillow_warns(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    Image.new("L", (100, 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    assert decode(path, PREPROCESSING).shape == (32, 32, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100 - 1)
    for action in ("ignore", "error"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with refuses("image-unreadable"):
                decode(path, PREPROCESSING)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # the user disabled the limit
    assert decode(path, PREPROCESSING).shape == (32, 32, 3)


def test_floating_point_pixels_are_unreadable(tmp_path):
    Image.new("F", (32, 32), 0.5).save(tmp_path / "depth.tif")
    with refuses("image-unreadable"):
        decode(tmp_path / "depth.tif", PREPROCESSING)


def test_the_first_frame_of_an_animation_is_used(tmp_path):
    frames = [Image.new("L", (32, 32), value) for value in (10, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert int(decode(tmp_path / "moving.gif", PREPROCESSING)[0, 0, 0]) == 10


@pytest.mark.parametrize("seed", range(8))
def test_damage_anywhere_gives_an_image_or_an_error(tmp_path, seed):
    generator = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {"png": {"exif": exif}, "jpg": {"exif": exif}, "webp": {}, "gif": {}, "bmp": {}, "ppm": {}}
    outcomes = set()
    for suffix, options in kinds.items():
        path = noise_file(tmp_path / f"photo.{suffix}", **options)
        whole = path.read_bytes()
        for _ in range(12):
            content = bytearray(whole)
            for at in generator.integers(0, min(len(content), 300), 3):
                content[at] = generator.integers(0, 256)
            path.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    outcomes.add(decode(path, PREPROCESSING).shape)
                except DeployError as error:
                    outcomes.add(error.problem.partition(" (")[0].replace(str(path), "it"))
    assert outcomes == {(32, 32, 3), "it is not a readable image"}
