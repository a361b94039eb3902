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


def test_identical_images_get_a_warning():
    image = noise(1)
    assert "All 6 images are identical" in verdict(np.repeat(image, 4, 0), np.repeat(image, 2, 0))


def test_images_that_hardly_differ_get_a_warning():
    # 0.05 is about 3 of 255 gray levels, on a standard deviation of 0.22.
    assert "The 5 images hardly differ" in verdict(noise(1) + 0.05 * noise(5))


def test_one_photograph_at_several_qualities_gets_a_warning(shared):
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
def test_many_copies_get_a_warning(distinct, warning):
    images = noise(distinct)[np.arange(12) % distinct]
    found = verdict(images[:5], images[5:])
    assert found is None if warning is None else warning in found


def test_different_images_get_no_warning(shared):
    for data in (shared / "photos", shared / "cifar10_calib.npz", "generated"):
        images = open_images(data, AT_64_PX, limit=48)
        assert verdict(*(batch.inputs for batch in images.batches(8))) is None


def test_a_single_image_gets_no_warning():
    assert verdict(noise(1)) is None
    assert verdict() is None


def test_a_batch_may_be_overwritten_after_the_check():
    diversity = DiversityCheck()
    near = noise(1) + 0.05 * noise(4)
    batch = near[:2].copy()
    diversity.add(batch)
    batch[:] = 9
    diversity.add(near[2:])
    assert "The 4 images hardly differ" in diversity.warning()
