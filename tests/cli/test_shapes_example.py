"""The small trained model of examples/shapes, and the code that made it."""

import hashlib
import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from deploykit import Int8Options, calibrate_to_file, evaluate_model, export_onnx, quantize_model
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.tensor_match import require_tensor_match

SHAPES = Path(__file__).parents[2] / "examples" / "shapes"
WEIGHTS = SHAPES / "weights.safetensors"
CLASSES = [
    f"{shape}-{texture}"
    for shape in ("circle", "square", "star", "triangle")
    for texture in ("checks", "dots", "stripes")
]
# What examples/shapes/README.md says of 4,000 images.
TOP1 = 0.8965

sys.path.insert(0, str(SHAPES))
render = importlib.import_module("render")
scene = importlib.import_module("scene")


@pytest.fixture(scope="module")
def rendered():
    return render.render(600, render.VALIDATION_SEED)


@pytest.fixture(scope="module")
def data(rendered, tmp_path_factory):
    """validation.npz, calibration.npz and noise.npz: what compare.py makes, of fewer images."""
    folder = tmp_path_factory.mktemp("data")
    render.write(rendered, folder / "validation.npz")
    render.write(render.render(96, render.CALIBRATION_SEED), folder / "calibration.npz")
    noise = np.random.default_rng(0).integers(0, 256, (96, 64, 64, 3), np.uint8)
    np.savez(folder / "noise.npz", images=noise)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("shapes") / "model.onnx"
    return export_onnx(-6, rule="formula", weights=WEIGHTS, side_px=64, output=output).path


def script(name: str, *arguments: str) -> Result:
    """Runs a script's command in this process: torch takes seconds to import."""
    return CliRunner().invoke(importlib.import_module(name).main, arguments)


def test_a_seed_gives_the_same_pixels_everywhere(rendered):
    # The digest was the same with NumPy 1.26 and 2.4, and with and without AVX2 and AVX-512.
    digest = hashlib.sha256(rendered.images.tobytes()).hexdigest()
    assert digest == "6f391a94a59f868dcc7fbd423c1ce9d659fc438fd35e72b11162afbfa15d3a53"


def test_more_images_of_a_seed_begin_with_the_same_ones(rendered):
    assert (render.render(13, render.VALIDATION_SEED).images == rendered.images[:13]).all()


def test_another_seed_gives_other_images(rendered):
    others = render.render(24, render.CALIBRATION_SEED).images
    assert not any((one == other).all() for one in others for other in rendered.images[:24])


def test_the_classes_are_balanced_and_in_alphabetical_order(rendered):
    assert list(render.CLASSES) == CLASSES == sorted(CLASSES)
    assert np.bincount(rendered.labels).tolist() == [50] * 12


@pytest.mark.parametrize(
    ("shape", "x", "y", "expected"),
    [
        ("circle", 0, 0, -1),
        ("circle", 0, 3, 2),
        ("square", 0, 0, -math.sqrt(0.5)),
        ("square", 1, 0, 0),  # a corner
        ("square", 0.5, -0.5, 0),  # an edge's middle
        ("triangle", 0, 0, -0.5),
        ("triangle", -0.5, 0, 0),
        ("triangle", -0.7, 0.1, 0.2),
        ("star", math.cos(0.4 * math.pi), math.sin(0.4 * math.pi), 0),  # the second point
        ("star", -0.5, 0, 0),  # the notch opposite the first
        (
            "star",
            -0.9,
            0,
            0.4 * math.cos(math.radians(27.7)),
        ),  # beside the notch: the edge there rises 62.3 degrees
    ],
)
def test_an_outline_is_where_geometry_has_it(shape, x, y, expected):
    assert scene.distance(shape, np.array([[x]]), np.array([[y]])).item() == pytest.approx(expected, abs=1e-3)


def test_a_folder_has_one_folder_a_class_with_the_very_pixels(rendered, tmp_path):
    out = tmp_path / "new" / "images"
    result = script("render", "--out", str(out), "--count", "30", "--seed", "2")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == CLASSES
    files = sorted(out.rglob("*.png"), key=lambda path: path.name)
    assert [CLASSES.index(path.parent.name) for path in files] == rendered.labels[:30].tolist()
    assert (np.stack([np.asarray(Image.open(path)) for path in files]) == rendered.images[:30]).all()
    assert [path.name for path in out.parent.iterdir()] == ["images"]


def test_an_archive_is_the_same_file_each_time(rendered, tmp_path):
    archives = [tmp_path / "first.npz", tmp_path / "second.npz"]
    for archive in archives:
        result = script("render", "--out", str(archive), "--count", "12", "--seed", "2")
        assert result.exit_code == 0, result.stderr
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with np.load(archives[0]) as archive:
        assert (archive["images"] == rendered.images[:12]).all()
        assert archive["classes"][archive["labels"]].tolist() == CLASSES


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("render", ("--out", "full", "--count", "12"), "is not an empty folder"),
        ("render", ("--out", "full/file", "--count", "12"), "is not an empty folder"),
        ("render", ("--out", "full/file/x.npz", "--count", "12"), "can't be written"),
        ("render", ("--out", "new", "--count", "0"), "0 is not in the range"),
        ("render", ("--out", "new", "--seed", "-1"), "-1 is not in the range"),
        ("train", ("--out", "full"), "is not a regular file"),
        ("compare", ("--weights", "none.safetensors", "--count", "12"), "does not exist"),
        ("compare", ("--weights", "full/file", "--count", "12"), "supported weights format"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(name, arguments, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine", encoding="utf-8")
    result = script(name, *arguments)
    assert result.exit_code in (1, 2)
    assert complaint in result.stderr
    assert isinstance(result.exception, SystemExit)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]
    assert (tmp_path / "full" / "file").read_text(encoding="utf-8") == "mine"


def test_the_weights_are_small_enough_to_commit():
    assert WEIGHTS.stat().st_size < 2_000_000


def test_the_command_of_the_readme_exports_the_weights(run):
    command = f"export --rule formula --phi -6 --side 64 --weights {WEIGHTS}"
    outcome = run(*command.split())
    assert outcome.status == 0, outcome.err
    assert "engines/efficientnet-formula-phi-6/model.onnx: 64 px, 12 classes" in outcome.out
    assert "Random weights" not in outcome.err


def test_the_model_classifies_fresh_images_as_well_as_documented(exported, data):
    scores = evaluate_model(exported, data / "validation.npz").scores
    assert scores.top1.low < TOP1 < scores.top1.high
    assert scores.top1.value == pytest.approx(TOP1, abs=0.02)


@pytest.mark.parametrize(("images", "least", "most"), [("calibration", -1.0, 1.0), ("noise", 4.0, 60.0)])
def test_int8_costs_little_when_calibrated_well_and_much_when_not(images, least, most, exported, data):
    folder = exported.parent
    ranges, _ = calibrate_to_file(
        data / f"{images}.npz", onnx=exported, method="percentile", output=folder / "ranges.json"
    )
    int8, _ = quantize_model(onnx=exported, int8=Int8Options(ranges=ranges, float_budget=0))
    drop = evaluate_model(int8, data / "validation.npz", reference=exported).scores.top1_drop
    assert least < 100 * drop.value < most


@pytest.fixture
def one_thread():
    """Where other tests run beside it, two threads would wait for each other at every layer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_moment_of_training_makes_weights_that_fit(one_thread, tmp_path):
    train = importlib.import_module("train")
    lines: list[str] = []
    recipe = train.Recipe(images=36, epochs=1, batch=12, label_smoothing=0.0)
    module = train.train(render.render(recipe.images, render.TRAINING_SEED), recipe, lines.append)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(train.serialize(module))
    require_tensor_match(load_weights(path), train.build_network())
    (line,) = lines
    assert line.startswith("epoch 1 of 1: loss ")
    assert float(line.rpartition(" ")[2]) == pytest.approx(math.log(12), abs=0.5)  # that of guessing
    assert 0 <= train.measure_top1(path, render.render(24, render.VALIDATION_SEED)) <= 1
