import io
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

from deploykit.data.preprocessing import INTERPOLATIONS, NO_OVERRIDES, Overrides, Preprocessing
from deploykit.util.json_io import from_json, to_json

RED, BLUE, GRAY = (255, 0, 0), (0, 0, 255), (90, 90, 90)
AT_32_PX = Preprocessing(side_px=32)


def ramp(width: int, height: int) -> Image.Image:
    """Return an image whose red is the column and whose green is the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def test_defaults_are_imagenets_statistics_and_the_reference_padding():
    assert AT_32_PX.mean == (0.485, 0.456, 0.406)
    assert AT_32_PX.std == (0.229, 0.224, 0.225)
    assert AT_32_PX.crop_padding_px == 32


def test_an_image_of_the_networks_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(AT_32_PX.crop(Image.fromarray(pixels)), pixels)


# The shorter side is already 32 + 32, so the image is only cropped.
@pytest.mark.parametrize(
    ("width", "height", "left", "top"),
    [(64, 64, 16, 16), (100, 64, 34, 16), (64, 100, 16, 34), (101, 64, 34.5, 16), (64, 103, 16, 35.5)],
)
def test_the_crop_is_the_centre(width, height, left, top):
    crop = AT_32_PX.crop(ramp(width, height))
    assert crop.shape == (32, 32, 3)
    # Rounding to integers is off by at most a half.
    np.testing.assert_allclose(crop[..., 0], np.broadcast_to(left + np.arange(32), (32, 32)), atol=0.5)
    np.testing.assert_allclose(
        crop[..., 1], np.broadcast_to(top + np.arange(32)[:, None], (32, 32)), atol=0.5
    )


# Pixel j of the crop is pixel left + j of the resized image, whose centre is at
# (left + j + 1/2) / ratio - 1/2 in the original; on a ramp that is also its value.
@pytest.mark.parametrize(
    ("width", "height", "column", "row", "step"),
    [
        (256, 128, 96.5, 32.5, 2),  # resized to 128 x 64; the crop starts at column 48 and row 16
        (128, 256, 32.5, 96.5, 2),
        (64, 32, 23.75, 7.75, 0.5),  # also resized to 128 x 64
    ],
)
def test_the_shorter_side_becomes_the_crop_and_its_padding(width, height, column, row, step):
    crop = AT_32_PX.crop(ramp(width, height)).astype(float)
    places = np.arange(32) * step
    np.testing.assert_allclose(crop[..., 0], np.broadcast_to(column + places, (32, 32)), atol=0.6)
    np.testing.assert_allclose(crop[..., 1], np.broadcast_to(row + places[:, None], (32, 32)), atol=0.6)


# The step is enlarged to 66 x 64 and cropped from column 17; it is before column 15. Output pixels
# are 1/4, 3/4, 5/4, ... of an input pixel away from input pixels. The weights there are a triangle's
# (3/4, 1/4), Keys' with a = -1/2 (0.867, 0.227, -0.070, -0.023), and sinc(x) sinc(x / 3) up to 3, scaled
# to a sum of 1.
@pytest.mark.parametrize(
    ("interpolation", "values"),
    [
        ("nearest", [100, 100, 100, 100, 200, 200, 200, 200]),
        ("bilinear", [100, 100, 100, 125, 175, 200, 200, 200]),
        ("bicubic", [100, 98, 93, 120, 180, 207, 202, 200]),
        ("lanczos", [103, 94, 90, 121, 179, 210, 206, 197]),
    ],
)
def test_resizing_uses_the_named_filter(interpolation, values):
    pixels = np.full((32, 33, 3), 100, np.uint8)
    pixels[:, 16:] = 200
    crop = Preprocessing(side_px=32, interpolation=interpolation).crop(Image.fromarray(pixels))
    assert crop[16, 11:19, 0].tolist() == values


def test_resizing_is_bicubic_by_default():
    assert AT_32_PX.interpolation == "bicubic"
    assert set(INTERPOLATIONS) == {"nearest", "bilinear", "bicubic", "lanczos"}


def test_without_padding_a_square_image_is_not_cropped():
    crop = Preprocessing(side_px=32, crop_padding_px=0).crop(ramp(128, 128)).astype(float)
    # Four columns become one: 1.5, 5.5, ...; at the edges bicubic has neighbours on one side only.
    np.testing.assert_allclose(crop[0, 2:-2, 0], (1.5 + 4 * np.arange(32))[2:-2], atol=0.6)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (33, 31), (31, 33)])
def test_images_of_any_size_become_squares(size):
    assert AT_32_PX.crop(Image.new("RGB", size)).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, GRAY),
        ("LA", (90, 0), GRAY),
        ("RGBA", (255, 0, 0, 128), RED),
        ("CMYK", (0, 255, 255, 0), RED),
        ("I", 90, GRAY),
        ("I", 90 * 257, GRAY),
        ("I", -1, (0, 0, 0)),
        ("I;16", 90 * 257, GRAY),
        ("I;16B", 90 * 257, GRAY),
    ],
)
@pytest.mark.parametrize("side_px", [32, 80])
def test_every_image_mode_becomes_rgb(mode, colour, rgb, side_px):
    crop = AT_32_PX.crop(Image.new(mode, (side_px, side_px), colour))
    assert crop.dtype == np.uint8
    np.testing.assert_array_equal(crop, np.broadcast_to(rgb, (32, 32, 3)))


@pytest.mark.parametrize("side_px", [32, 80])
def test_palettes_are_resolved_before_resizing(side_px):
    image = Image.new("P", (side_px, side_px), 7)
    image.putpalette([*([0] * 21), *RED])
    np.testing.assert_array_equal(AT_32_PX.crop(image), np.broadcast_to(RED, (32, 32, 3)))


def saved(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file


def crop_of(file: io.BytesIO) -> np.ndarray:
    with warnings.catch_warnings(), Image.open(file) as image:
        warnings.simplefilter("error")
        return AT_32_PX.crop(image)


def with_alpha(colour: tuple[int, int, int], alpha: int) -> Image.Image:
    return Image.new("RGBA", (32, 32), (*colour, alpha))


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_is_dropped_without_changing_colours(alpha):
    np.testing.assert_array_equal(
        crop_of(saved(with_alpha(RED, alpha), "PNG")), np.broadcast_to(RED, (32, 32, 3))
    )


@pytest.mark.parametrize(("kind", "transparency"), [("PNG", b"\x00\x80"), ("PNG", 0), ("GIF", 0)])
def test_transparent_palettes_are_resolved_without_pillows_warning(kind, transparency):
    image = Image.new("P", (32, 32), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (16, 0, 32, 32))
    crop = crop_of(saved(image, kind, transparency=transparency))
    assert tuple(crop[0, 0]) == RED
    assert tuple(crop[0, 31]) == BLUE


@pytest.mark.parametrize("transparency", [90, 7])
def test_a_transparent_gray_image_is_gray(transparency):
    crop = crop_of(saved(Image.new("L", (32, 32), 90), "PNG", transparency=transparency))
    np.testing.assert_array_equal(crop, np.broadcast_to(GRAY, (32, 32, 3)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_pixels_become_eight_bit(kind):
    values = (np.arange(32, dtype=np.uint16) * 2048)[None].repeat(32, 0)
    crop = crop_of(saved(Image.fromarray(values), kind))
    # 2048 is 8 of 256.
    np.testing.assert_array_equal(crop[..., 1], (np.arange(32) * 8)[None].repeat(32, 0))


def test_a_dark_sixteen_bit_image_stays_dark():
    crop = crop_of(saved(Image.fromarray(np.full((32, 32), 200, np.uint16)), "PNG"))
    assert crop.max() == 0


def test_a_cmyk_jpeg_keeps_its_colours():
    crop = crop_of(saved(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG"))
    np.testing.assert_allclose(crop, np.broadcast_to(RED, (32, 32, 3)), atol=4)


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        crop_of(saved(Image.new("F", (32, 32), 0.5), "TIFF"))


# EXIF 2.32, table 6, Orientation: where the first row and the first column of the stored image are shown.
# Red is stored at the start of the first row, blue at its end.
@pytest.mark.parametrize(
    ("orientation", "red", "blue"),
    [
        (1, "top left", "top right"),
        (2, "top right", "top left"),
        (3, "bottom right", "bottom left"),
        (4, "bottom left", "bottom right"),
        (5, "top left", "bottom left"),
        (6, "top right", "bottom right"),
        (7, "bottom right", "top right"),
        (8, "bottom left", "top left"),
    ],
)
def test_exif_orientation_is_applied(orientation, red, blue):
    image = Image.new("RGB", (32, 32))
    image.putpixel((0, 0), RED)
    image.putpixel((31, 0), BLUE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    with Image.open(file) as stored:
        crop = AT_32_PX.crop(stored)
    corners = {
        "top left": crop[0, 0],
        "top right": crop[0, -1],
        "bottom left": crop[-1, 0],
        "bottom right": crop[-1, -1],
    }
    assert tuple(corners[red]) == RED
    assert tuple(corners[blue]) == BLUE


def test_the_crop_follows_the_exif_orientation():
    # Stored 64 x 100, shown 100 x 64: columns 34 to 65 as shown, which are the stored rows 65 to 34.
    exif = Image.Exif()
    exif[0x0112] = 8  # rotated to the left: stored rows become columns
    file = io.BytesIO()
    ramp(64, 100).save(file, "PNG", exif=exif)
    with Image.open(file) as stored:
        crop = AT_32_PX.crop(stored)
    np.testing.assert_array_equal(crop[0, :, 1], 34 + np.arange(32))
    np.testing.assert_array_equal(crop[:, 0, 0], 47 - np.arange(32))


def test_a_tiff_that_pillow_rotates_is_rotated_once():
    image = Image.new("RGB", (32, 32))
    image.putpixel((0, 0), RED)
    crop = crop_of(saved(image, "TIFF", tiffinfo={0x0112: 6}))
    assert tuple(crop[0, -1]) == RED


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\0"])
def test_damaged_exif_is_ignored(exif):
    image = ramp(32, 32)
    with Image.open(saved(image, "PNG", exif=exif)) as stored:
        np.testing.assert_array_equal(AT_32_PX.crop(stored), np.asarray(image))


def test_a_grayscale_photograph_has_three_equal_channels(shared):
    def is_gray(path) -> bool:
        with Image.open(path) as image:
            return image.mode == "L"

    photographs = sorted(path for path in (shared / "photos").rglob("*") if path.is_file())
    gray = next(path for path in photographs if path.suffix != ".md" and is_gray(path))
    with Image.open(gray) as image:
        crop = AT_32_PX.crop(image)
    assert crop.std() > 1
    np.testing.assert_array_equal(crop, crop[..., :1].repeat(3, axis=-1))


def test_values_are_normalized_per_channel():
    pixels = np.array([[[255, 0, 128]]], np.uint8)[None]
    values = Preprocessing(side_px=1).normalize(pixels)
    # (1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225
    np.testing.assert_allclose(values, [[[[2.248908]], [[-2.035714]], [[0.426492]]]], atol=1e-6)


def test_a_batch_is_channels_first_contiguous_and_float32():
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    values = Preprocessing(side_px=4, mean=(0, 0, 0), std=(1, 1, 1)).normalize(pixels)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    assert values.shape == (2, 3, 4, 4)
    # Image 1, row 2, column 3, channel 1 is at index 48 + 24 + 9 + 1.
    assert values[1, 1, 2, 3] == pytest.approx(82 / 255)


def test_json_round_trip_keeps_preprocessing():
    preprocessing = Preprocessing(side_px=300, crop_padding_px=0, mean=(0.5, 0.25, 0), std=(1, 2, 3))
    back = from_json(to_json(preprocessing), Preprocessing)
    assert back == preprocessing
    assert hash(back) == hash(preprocessing)


def test_records_without_an_interpolation_are_bicubic():
    text = '{"side_px": 64, "crop_padding_px": 0, "mean": [0, 0, 0], "std": [1, 1, 1]}'
    assert from_json(text, Preprocessing) == Preprocessing(
        side_px=64, crop_padding_px=0, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic"
    )


def test_overrides_replace_only_what_they_set():
    changed = AT_32_PX.override(Overrides(std=(0.5, 0.25, 1), interpolation="bilinear"))
    assert repr(changed.std) == "(0.5, 0.25, 1.0)"  # as a file returns them
    assert changed == Preprocessing(side_px=32, std=(0.5, 0.25, 1), interpolation="bilinear")
    assert AT_32_PX.override(NO_OVERRIDES) == AT_32_PX


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (Overrides(mean=(0.5, math.nan, 0.5)), "0.5,nan,0.5"),
        (Overrides(mean=(0.5, 0.5, math.inf)), "0.5,0.5,inf"),
        (Overrides(mean=(123.675, 116.28, 103.53)), "mean 123.675,116.28,103.53"),
        (Overrides(mean=(-0.5, 0, 0)), "-0.5,0,0"),
        (Overrides(std=(0.5, 0, 0.5)), "deviation 0.5,0,0.5"),
        (Overrides(std=(-1, 1, 1)), "-1,1,1"),
        (Overrides(std=(1, 1, math.nan)), "1,1,nan"),
        (Overrides(std=(1, math.inf, 1)), "1,inf,1"),
        (Overrides(std=(1, 1, 1e-50)), "1,1,1e-50 must be positive"),  # 0 in FP32
        (Overrides(std=(1, 1, 1e-39)), "range of FP32"),
        (Overrides(crop_padding_px=-1), "-1 px"),
        (Overrides(interpolation="area"), "'area'"),
    ],
)
def test_unusable_preprocessing_is_refused(overrides, named):
    with refuses("invalid-preprocessing") as caught:
        AT_32_PX.override(overrides)
    assert named in caught.value.problem


def test_a_long_thin_image_needs_little_memory(tmp_path):
    # Resizing the whole image, to 64 by 3.2 million pixels, would take 800 MB.
    program = """
import re
from pathlib import Path
from PIL import Image
from deploykit.data.preprocessing import Preprocessing
def crop(height):
    Preprocessing(side_px=32).crop(Image.new("RGB", (1, height)))
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = crop(1)
print(crop(50_000) - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(result.stdout) < 100
