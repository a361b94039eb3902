import io

import numpy as np
import pytest
from PIL import Image

from deploykit.data.images import DiversityCheck, open_images
from deploykit.data.preprocessing import Preprocessing

AT_64_PX = Preprocessing(side_px=64)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


def verdict(*batches: np.ndarray) -> str | None:
    diversity = DiversityCheck()
    for batch in batches:
        diversity.add(batch)
    return diversity.warning()


def test_one_image_over_and_over_is_told_of():
    image = noise(1)
    assert "All 6 images are identical" in verdict(np.repeat(image, 4, 0), np.repeat(image, 2, 0))


def test_images_that_hardly_differ_are_told_of():
    # 0.05 is about 3 of 255 gray levels, on a standard deviation of 0.22.
    assert "The 5 images hardly differ" in verdict(noise(1) + 0.05 * noise(5))


def test_one_photograph_saved_again_and_again_is_told_of(shared):
    path = next((shared / "photos").glob("*jay*"))
    copies = []
    for quality in (95, 90, 85, 80):
        with Image.open(path) as photo, io.BytesIO() as file:
            photo.save(file, "JPEG", quality=quality)
            copies.append(AT_64_PX.crop(Image.open(file)))
    assert "hardly differ" in verdict(AT_64_PX.normalize(np.stack(copies)))


@pytest.mark.parametrize(
    ("distinct", "warning"), [(1, "All 12"), (2, "Only 2 of the 12"), (6, "Only 6 of the 12"), (7, None)]
)
def test_images_of_which_most_are_copies_are_told_of(distinct, warning):
    images = noise(distinct)[np.arange(12) % distinct]
    found = verdict(images[:5], images[5:])
    assert found is None if warning is None else warning in found


def test_images_that_differ_are_nothing_to_tell_of(shared):
    for data in (shared / "photos", shared / "cifar10_calib.npz", "generated"):
        images = open_images(data, AT_64_PX, limit=48)
        assert verdict(*(batch.inputs for batch in images.batches(8))) is None


def test_one_image_is_not_like_anything():
    assert verdict(noise(1)) is None
    assert verdict() is None


def test_what_is_shown_may_change_afterwards():
    diversity = DiversityCheck()
    near = noise(1) + 0.05 * noise(4)
    batch = near[:2].copy()
    diversity.add(batch)
    batch[:] = 9
    diversity.add(near[2:])
    assert "The 4 images hardly differ" in diversity.warning()
