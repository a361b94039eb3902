import numpy as np
import pytest

from deploykit.data.images.sampling import sample_evenly, sample_randomly

NAMES = [f"{number:03}.jpg" for number in range(200)]


@pytest.mark.parametrize(
    ("count", "limit", "drawn"),
    [
        (10, 5, [0, 2, 4, 6, 8]),
        (10, 3, [0, 3, 6]),
        (3, 10, [0, 1, 2]),
        (1, 1, [0]),
        (0, 5, []),
    ],
)
def test_an_even_draw_covers_all_images(count, limit, drawn):
    assert sample_evenly(count, limit).tolist() == drawn


def test_an_even_draw_includes_every_class_if_possible():
    labels = np.array([0] * 50 + [1] + [2] * 49 + [3])
    drawn = sample_evenly(len(labels), 5, labels)
    assert set(labels[drawn]) == {0, 1, 2, 3}
    assert len(set(drawn.tolist())) == 5
    assert drawn.tolist() == sorted(drawn)
    assert {50, 100} <= set(drawn.tolist())


def test_a_draw_smaller_than_the_classes_is_even():
    labels = np.array([0] * 50 + [1] + [2] * 49 + [3])
    assert sample_evenly(len(labels), 3, labels).tolist() == sample_evenly(len(labels), 3).tolist()


def test_labels_do_not_matter_if_every_class_is_drawn_anyway():
    labels = np.arange(100) % 10
    assert sample_evenly(100, 37, labels).tolist() == sample_evenly(100, 37).tolist()


def test_a_random_draw_is_ascending_without_duplicates():
    drawn = sample_randomly(NAMES, 50, seed=3).tolist()
    assert len(set(drawn)) == 50
    assert drawn == sorted(drawn)
    assert drawn != sample_randomly(NAMES, 50, seed=4).tolist()
    assert sample_randomly(NAMES, 500, seed=3).tolist() == list(range(200))


def test_a_random_draw_does_not_depend_on_any_version():
    # printf '7/%s' a.jpg | sha256sum, and so on: 4642..., ab9f..., 0e3d..., c8e4...
    assert sample_randomly(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], 2, seed=7).tolist() == [0, 2]


def test_one_more_file_changes_at_most_one_image_of_a_random_draw():
    before = {NAMES[index] for index in sample_randomly(NAMES, 50, seed=0)}
    more = sorted([*NAMES, "100b.jpg"])
    after = {more[index] for index in sample_randomly(more, 50, seed=0)}
    assert len(before - after) <= 1


def test_a_random_draw_covers_all_images():
    drawn = sample_randomly(NAMES, 100, seed=0)
    # A random half: 50 from each half of the names, within four standard deviations of 3.5.
    assert 36 <= np.count_nonzero(drawn < 100) <= 64


def test_names_that_are_not_utf8_can_be_drawn():
    assert sample_randomly(["\udcff.png"], 1, seed=0).tolist() == [0]
