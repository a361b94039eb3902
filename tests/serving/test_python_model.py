"""The models of Triton's Python backend, run without Triton."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from served import flat_images
from small_models import PREPROCESSING, colour_blocks

from deploykit.engine.build import build_engine
from deploykit.engine.shapes import parse_profiles
from deploykit.runtime import Engine
from deploykit.serving.decode_model import preprocess_images
from deploykit.serving.python_model import find_engine, infer_batch, infer_requests, thread_count
from deploykit.util.errors import DeployError


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    """An engine for batches of 1, 3 or 8."""
    folder = tmp_path_factory.mktemp("engine")
    model = colour_blocks(folder / "colours.onnx")
    profiles = parse_profiles("1;3;8")
    return build_engine(onnx=model, gpu="cpu", batches=profiles, output=folder / "e.onnx").path


@pytest.mark.parametrize("counts", [(1,), (3,), (2,), (1, 1), (1, 3), (2, 3, 2), (8,)])
def test_batched_requests_each_get_their_own_outputs(engine, counts):
    """Batches that no profile covers are padded."""
    images = flat_images(sum(counts))
    parts = np.split(images, np.cumsum(counts)[:-1])
    with Engine.load(engine) as loaded:
        answers = infer_batch(loaded, parts)
    assert [len(answer) for (answer,) in answers] == list(counts)
    np.testing.assert_allclose(
        np.concatenate([answer for (answer,) in answers]), images[:, :, 0, 0], rtol=1e-6
    )


def test_a_batch_over_the_largest_profile_is_refused(engine):
    with Engine.load(engine) as loaded, pytest.raises(DeployError, match="not 9"):
        infer_batch(loaded, [flat_images(9)])


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 3, 8, 8), (1, 3, 8, 9), (9, 3, 8, 8), (3,), ()])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_invalid_request_fails_alone(engine, shape, at):
    """Triton accepts some of them, such as a batch of no images with the bytes of one."""
    good = [flat_images(1, seed=1), flat_images(2, seed=2)]
    with Engine.load(engine) as loaded:
        answers = infer_requests(loaded, [*good[:at], np.zeros(shape, np.float32), *good[at:]])
    assert isinstance(answers.pop(at), DeployError)
    for (answer,), images in zip(answers, good, strict=True):
        np.testing.assert_allclose(answer, images[:, :, 0, 0], rtol=1e-6)


def test_the_engine_that_runs_here_is_chosen(engine, tmp_path):
    (tmp_path / "model.py").touch()
    with refuses("engine-not-found"):
        find_engine(tmp_path)
    shutil.copy(engine, tmp_path / "model.cpu.engine")
    shutil.copy(f"{engine}.json", tmp_path / "model.cpu.engine.json")
    assert find_engine(tmp_path) == tmp_path / "model.cpu.engine"


def test_instances_share_the_cores_by_default():
    cores = len(os.sched_getaffinity(0))
    assert thread_count({"instance_group": [{"count": 1}]}) == cores
    assert thread_count({"instance_group": [{"count": 2 * cores}]}) == 1
    config = {"parameters": {"threads": {"string_value": "3"}}, "instance_group": [{"count": 2}]}
    assert thread_count(config) == 3


def test_formats_that_start_other_programs_are_refused():
    """Pillow runs Ghostscript for PostScript."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with refuses("image-unreadable"):
        preprocess_images([script], PREPROCESSING, normalizes=True)
