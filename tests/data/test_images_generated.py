import hashlib

import numpy as np
import pytest

from deploykit.data.images import open_images
from deploykit.data.images.generated import draw_dead_leaves
from deploykit.data.preprocessing import Preprocessing


def test_generated_images_are_reproducible_and_distinct():
    first, second = (np.stack([draw_dead_leaves(32, index) for index in range(4)]) for _ in range(2))
    assert first.shape == (4, 32, 32, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert len({image.tobytes() for image in first}) == 4


def test_generated_pixels_match_the_digests_of_this_version():
    """A change of the drawing requires a new _VERSION and new manifests."""
    pixels = np.stack([draw_dead_leaves(32, index) for index in range(4)])
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert digest == "d0a08236d8b04a5cb1c91f12704596e84b9831018782e6cc4cdf06c3f88920dd"


def test_another_seed_gives_another_series():
    series = [draw_dead_leaves(32, index, seed).tobytes() for seed in (None, 0, 1) for index in (0, 1)]
    assert len(set(series)) == 6


def test_a_longer_series_starts_with_the_same_images():
    few, many = (
        np.concatenate(
            [
                batch.inputs
                for batch in open_images("generated", Preprocessing(side_px=32), limit=limit).batches(3)
            ]
        )
        for limit in (2, 7)
    )
    np.testing.assert_array_equal(few, many[:2])


def test_the_digest_does_not_depend_on_the_image_size():
    digests = [
        open_images("generated", Preprocessing(side_px=side_px), limit=limit, seed=seed).sha256
        for side_px, limit, seed in ((32, 8, None), (64, 8, None), (32, 9, None), (32, 8, 0))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_disc_covers_the_pixels_within_its_radius(monkeypatch):
    from deploykit.data.images import generated

    image = np.zeros((40, 40, 3), np.uint8)
    generated._paint(image, 10.5, 12.25, 35.75, np.array([1, 2, 3], np.uint8))
    rows, columns = np.mgrid[:40, :40]
    inside = np.hypot(rows - 12.25, columns - 35.75) < 10.5
    assert inside.any()
    np.testing.assert_array_equal(image, inside[..., None] * np.array([1, 2, 3]))


@pytest.mark.parametrize("side_px", [1, 2, 7, 33])
def test_images_of_any_size_are_generated(side_px):
    assert draw_dead_leaves(side_px, 0).shape == (side_px, side_px, 3)


def correlation(gray: np.ndarray, distance_px: int) -> float:
    """Return the correlation of pixels at this distance in a row, over all images."""
    return float(np.corrcoef(gray[:, :, :-distance_px].ravel(), gray[:, :, distance_px:].ravel())[0, 1])


def spectral_slope(gray: np.ndarray) -> float:
    """Return the slope of power over frequency, both logarithmic, of 128 px images."""
    power = (np.abs(np.fft.fft2(gray - gray.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    octaves = [(low <= frequency) & (frequency < 2 * low) for low in 2.0 ** np.arange(-6, -1)]
    heights = [np.log2(power[octave].mean()) for octave in octaves]
    return float(np.polyfit(range(len(heights)), heights, 1)[0])


# Field, J. Opt. Soc. Am. A 4, 1987, gives -2; 48 photographs measured in this way give -2.77.
OF_PHOTOGRAPHS = -2.77


def test_generated_images_have_the_spectrum_of_photographs():
    gray = np.stack([draw_dead_leaves(128, index).mean(axis=2) for index in range(48)])
    assert spectral_slope(gray) == pytest.approx(OF_PHOTOGRAPHS, abs=0.3)
    assert correlation(gray, 1) > 0.8
    assert correlation(gray, 64) < 0.3


def test_photographs_have_the_reference_spectrum(shared):
    images = open_images(shared / "photos", Preprocessing(side_px=128), limit=48)
    gray = np.concatenate([batch.inputs.mean(axis=1) for batch in images.batches(8)])
    assert spectral_slope(gray) == pytest.approx(OF_PHOTOGRAPHS, abs=0.05)
    assert correlation(gray, 1) > 0.8
    assert correlation(gray, 64) < 0.3
