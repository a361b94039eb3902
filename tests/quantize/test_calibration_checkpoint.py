import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploykit.data.images import Images, open_images
from deploykit.data.preprocessing import Overrides, Preprocessing
from deploykit.quantize.calibration.checkpoint import CalibrationCheckpoint
from deploykit.quantize.calibration.methods import METHOD_NAMES, CalibrationMethod, named_method
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics, sample_batch

MODEL = "a" * 64
SIDE = Preprocessing(side_px=16)


def images(*, limit: int = 5, overrides: Overrides = Overrides()) -> Images:  # noqa: B008  # frozen
    return open_images("generated", SIDE, limit=limit, overrides=overrides)


def ranges(preprocessing: Preprocessing = SIDE) -> Ranges:
    statistics = TensorStatistics()
    statistics.add(sample_batch(np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)))
    return Ranges(
        onnx_sha256=MODEL,
        preprocessing=preprocessing,
        sources=("generated",),
        images=3,
        method=CalibrationMethod(name="max"),
        statistics={"x": statistics},
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> CalibrationCheckpoint:
    """Of the first 3 of 5 generated images."""
    kept = CalibrationCheckpoint.beside(tmp_path / "b0.ranges.json")
    kept.save(images(), 3, ranges())
    return kept


def test_it_is_kept_beside_the_ranges_where_no_build_takes_it_for_ranges(checkpoint, tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == ["b0.ranges.json.partial"]
    assert checkpoint.path == tmp_path / "b0.ranges.json.partial"


def test_what_is_kept_comes_back_and_goes_on_counting(checkpoint):
    position, found = checkpoint.load(images(), MODEL)
    assert position == 3
    assert found.to_json() == ranges().to_json()
    more, together = np.ones((2, 40), np.float32), ranges()
    found.statistics["x"].add(sample_batch(more))
    together.statistics["x"].add(sample_batch(more))
    assert found.to_json() == together.to_json()


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_any_method_goes_on_from_it(tmp_path, method):
    kept = CalibrationCheckpoint.beside(tmp_path / "r.json")
    kept.save(images(), 1, replace(ranges(), method=named_method(method)))
    assert kept.load(images(), MODEL) is not None


def test_all_images_may_have_been_seen(checkpoint):
    checkpoint.save(images(), 5, ranges())
    assert checkpoint.load(images(), MODEL)[0] == 5


@pytest.mark.parametrize(
    "drawn",
    [
        images(limit=6),
        images(limit=3),
        images().subset([0, 1, 2, 4]),
        open_images("generated", SIDE, limit=5, seed=1),
    ],
    ids=["more", "fewer", "a part", "another draw"],
)
def test_other_images_do_not_go_on_from_it(checkpoint, drawn):
    assert checkpoint.load(drawn, MODEL) is None


def test_other_preprocessing_does_not_go_on_from_it(checkpoint):
    assert checkpoint.load(images(overrides=Overrides(mean=(0.5, 0.5, 0.5))), MODEL) is None


def test_another_model_does_not_go_on_from_it(checkpoint):
    assert checkpoint.load(images(), "b" * 64) is None


def test_changed_files_do_not_go_on_from_it(tmp_path):
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    kept = CalibrationCheckpoint.beside(tmp_path / "r.json")
    kept.save(open_images(tmp_path, SIDE, limit=3), 2, ranges())
    assert kept.load(open_images(tmp_path, SIDE, limit=3), MODEL) is not None
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "2.png")
    assert kept.load(open_images(tmp_path, SIDE, limit=3), MODEL) is None


def test_a_missing_or_removed_checkpoint_loads_as_none(checkpoint):
    checkpoint.remove()
    assert not checkpoint.path.exists()
    assert checkpoint.load(images(), MODEL) is None
    checkpoint.remove()  # again


def test_a_truncated_checkpoint_loads_as_none(checkpoint):
    whole = checkpoint.path.read_bytes().rstrip()
    for length in [*range(0, len(whole), 29), len(whole) - 1]:
        checkpoint.path.write_bytes(whole[:length])
        assert checkpoint.load(images(), MODEL) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"position": 0},
        {"position": -1},
        {"position": 6},
        {"position": "3"},
        {"images_sha256": None},
        {"ranges": {}},
        {"ranges": None},
    ],
    ids=str,
)
def test_a_checkpoint_with_invalid_content_loads_as_none(checkpoint, damage):
    checkpoint.path.write_text(json.dumps({**json.loads(checkpoint.path.read_text()), **damage}))
    assert checkpoint.load(images(), MODEL) is None


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"null", b"[]", b"[" * 100_000])
def test_garbage_loads_as_none(checkpoint, content):
    checkpoint.path.write_bytes(content)
    assert checkpoint.load(images(), MODEL) is None
