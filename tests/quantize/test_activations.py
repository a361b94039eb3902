"""Tests of quantize/calibration/activations.py and observer.py."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade_graphs import graph_of, weight
from onnx import helper
from PIL import Image
from refusals import refuses
from small_models import two_convolutions

from deploykit.data.images import Images, diversity, open_images
from deploykit.data.preprocessing import Preprocessing
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.calibration import activations
from deploykit.quantize.calibration.activations import measure_activations
from deploykit.quantize.calibration.checkpoint import CalibrationCheckpoint
from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.quantize.calibration.observer import images_per_run, split_cores
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration.tensor_statistics import TensorStatistics, sample_batch
from deploykit.util.atomic_files import file_sha256
from deploykit.util.prefetch import available_cores
from deploykit.util.progress import no_progress

SIDE = Preprocessing(side_px=32)
_, BATCH, _ = split_cores(32)
COUNT = 2 * BATCH + 3  # two full batches and a bit


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return two_convolutions(tmp_path / "small.onnx")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """An archive of random pixels, which is read faster than images are drawn."""
    path = tmp_path_factory.mktemp("noise") / "noise.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3)).astype(np.uint8)
    np.savez(path, images=pixels)
    return open_images(path, SIDE, limit=COUNT)


def empty(model: Path, images: Images, *tensors: str) -> Ranges:
    return Ranges(
        onnx_sha256=file_sha256(model),
        preprocessing=images.preprocessing,
        sources=(images.source,),
        images=0,
        method=CalibrationMethod(name="max"),
        statistics={name: TensorStatistics() for name in tensors or ("image", "r")},
    )


class Told:
    """What measure reports."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.progress: list[tuple[int, int]] = []
        self.on_skipped: list[str] = []


def measured(
    model: Path, images: Images, *, at: Path | None = None, skip_bad: bool = False, told: Told | None = None
) -> Ranges:
    told = told or Told()
    return measure_activations(
        read_model(model),
        images,
        empty(model, images),
        checkpoint=None if at is None else CalibrationCheckpoint(path=at),
        note=told.notes.append,
        progress=lambda stage, done, total: told.progress.append((done, total)),
        on_skipped=(lambda error: told.on_skipped.append(error.problem)) if skip_bad else None,
    )


@pytest.mark.parametrize(
    ("side_px", "size"), [(1, 32), (64, 32), (112, 32), (224, 8), (300, 4), (380, 2), (600, 1), (2000, 1)]
)
def test_the_memory_of_a_batch_hardly_depends_on_the_side(side_px, size):
    assert images_per_run(side_px) == size
    assert size == 1 or size * side_px**2 <= 8 * 224**2


@pytest.mark.parametrize("side_px", [64, 224, 380, 600])
def test_all_cores_share_the_images_that_fit(side_px):
    at_once, size, threads = split_cores(side_px)
    assert 1 <= at_once * size <= images_per_run(side_px) < at_once * (size + 1)
    assert at_once + threads - 1 == available_cores()  # the threads that run batches compute too


def test_the_statistics_are_those_of_the_tensors_themselves(model, noise):
    ranges = measured(model, noise)
    (batch,) = noise.batches(COUNT)
    expected = {"image": batch.inputs, "r": np.repeat(np.maximum(batch.inputs.sum(axis=1), 0)[:, None], 4, 1)}
    assert ranges.images == COUNT
    for name, values in expected.items():
        by_hand = TensorStatistics()
        by_hand.add(sample_batch(values.astype(np.float32)))
        found = ranges.statistics[name]
        assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high), rel=1e-5)
        # Sums of three numbers are rounded in another order; a few values are on the other side of an edge.
        moved = np.abs(found.values.counts - by_hand.values.counts).sum()
        assert moved <= 0.002 * by_hand.values.counts.sum()
        assert found.values.counts.sum() == by_hand.values.counts.sum()
        assert found.peaks.counts.sum() == COUNT


def test_a_model_that_does_not_accept_the_batch_is_refused(tmp_path, noise):
    nodes = [
        helper.make_node("Reshape", ["image", "one"], ["flat"]),  # the batch is written into it
        helper.make_node("MatMul", ["flat", "w"], ["r"]),
    ]
    constants = {"one": np.array([1, 3 * 32 * 32]), "w": weight(3 * 32 * 32, 2)}
    model = graph_of(nodes, constants, takes={"image": (3, 32, 32)}, gives={"r": (2,)})
    (tmp_path / "one.onnx").write_bytes(model.SerializeToString())
    with refuses("onnxruntime-run-failed"):
        measured(tmp_path / "one.onnx", noise)


def test_tensors_whose_shape_depends_on_the_images_are_counted_too(tmp_path):
    nodes = [
        helper.make_node("ReduceMax", ["image", "axes"], ["largest"], keepdims=0),
        helper.make_node("NonZero", ["largest"], ["places"]),
        helper.make_node("Cast", ["places"], ["r"], to=1),
    ]
    model = graph_of(nodes, {"axes": np.array([1, 2, 3])}, takes={"image": (3, 32, 32)}, gives={"r": ("k",)})
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    pixels = np.zeros((COUNT, 32, 32, 3), np.uint8)
    pixels[:] = (np.arange(COUNT) % 7 > 2)[:, None, None, None]
    np.savez(tmp_path / "some.npz", images=pixels)
    plain = replace(SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    ranges = measured(tmp_path / "odd.onnx", open_images(tmp_path / "some.npz", plain, limit=COUNT))
    assert ranges.statistics["r"].high == BATCH - 1


def test_the_given_ranges_are_not_modified(model, noise):
    start = empty(model, noise)
    graph, silent = read_model(model), Told()
    measure_activations(
        graph,
        noise,
        start,
        checkpoint=None,
        note=silent.notes.append,
        progress=no_progress,
        on_skipped=None,
    )
    assert start.images == 0
    assert start.statistics["r"].values.counts.sum() == 0


def test_progress_counts_images_to_the_last(model, noise):
    told = Told()
    measured(model, noise, told=told)
    assert told.progress == [(BATCH, COUNT), (2 * BATCH, COUNT), (COUNT, COUNT)]


def test_no_checkpoint_is_written_unless_requested(model, noise, tmp_path):
    measured(model, noise)
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


FOLDER = Path(activations.__file__).parent
CODE = {str(FOLDER / f"{name}.py") for name in ("activations", "observer", "tensor_statistics", "histogram")}
CODE.add(diversity.__file__)


class Interrupt:
    """Raises KeyboardInterrupt before the nth line of CODE that is run, as Ctrl-C may anywhere."""

    def __init__(self, at: int | None) -> None:
        self._at = at
        self.functions: list[str] = []  # that each line run is in

    def __enter__(self) -> "Interrupt":
        sys.settrace(self._called)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)

    def _called(self, frame, event, argument):
        return self._line if frame.f_code.co_filename in CODE else None

    def _line(self, frame, event, argument):
        if event == "line":
            self.functions.append(frame.f_code.co_qualname)
            if len(self.functions) == self._at:
                raise KeyboardInterrupt
        return self._line


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, noise: Images) -> list[str]:
    """The functions of all lines there are to interrupt before."""
    folder = tmp_path_factory.mktemp("lines")
    with Interrupt(None) as counted:
        measured(two_convolutions(folder / "small.onnx"), noise, at=folder / "r.partial")
    return counted.functions


def resumed_after(model: Path, images: Images, kept: Path, at: int) -> str:
    kept.unlink(missing_ok=True)
    with pytest.raises(KeyboardInterrupt), Interrupt(at):
        measured(model, images, at=kept)
    return measured(model, images, at=kept).to_json()


def test_a_calibration_interrupted_between_steps_resumes_to_the_same_result(model, noise, tmp_path, lines):
    uninterrupted, kept = measured(model, noise).to_json(), tmp_path / "r.partial"
    steps = [number for number, name in enumerate(lines, 1) if name == "measure_activations"]
    assert len(steps) > 15
    for at in steps:
        assert resumed_after(model, noise, kept, at) == uninterrupted, at


@pytest.mark.parametrize("part", np.linspace(0.03, 0.98, 12).round(4).tolist())
def test_a_calibration_interrupted_anywhere_resumes_to_the_same_result(model, noise, tmp_path, lines, part):
    resumed = resumed_after(model, noise, tmp_path / "r.partial", int(part * len(lines)))
    assert resumed == measured(model, noise).to_json()


def test_an_interrupt_during_a_batch_keeps_the_earlier_batches(model, noise, tmp_path, lines):
    last = len(lines) - lines[::-1].index("Histogram.add")
    kept, told = tmp_path / "r.partial", Told()
    with pytest.raises(KeyboardInterrupt), Interrupt(last):
        measured(model, noise, at=kept)
    measured(model, noise, at=kept, told=told)
    assert told.progress == [(COUNT, COUNT)]


def stop_after(images: int):
    """Progress that is interrupted there."""

    def progress(stage: str, done: float = 0, total: float | None = None) -> None:
        if done >= images:
            raise KeyboardInterrupt

    return progress


def interrupted(model: Path, images: Images, at: Path, *, after: int, skip_bad: bool = False) -> Told:
    told = Told()
    with pytest.raises(KeyboardInterrupt):
        measure_activations(
            read_model(model),
            images,
            empty(model, images),
            checkpoint=CalibrationCheckpoint(path=at),
            note=told.notes.append,
            progress=stop_after(after),
            on_skipped=(lambda error: None) if skip_bad else None,
        )
    return told


def test_notes_say_where_it_stopped_and_where_it_continues(model, noise, tmp_path):
    kept, told = tmp_path / "r.partial", Told()
    stopped = interrupted(model, noise, kept, after=BATCH + 1)
    assert any(f"{2 * BATCH} of {COUNT}" in sentence for sentence in stopped.notes)
    measured(model, noise, at=kept, told=told)
    assert told.progress == [(COUNT, COUNT)]
    (sentence,) = told.notes
    assert f"from image {2 * BATCH} of {COUNT}" in sentence


def test_it_can_be_interrupted_repeatedly(model, noise, tmp_path):
    kept = tmp_path / "r.partial"
    for after in (1, BATCH + 1, 2 * BATCH + 1):
        interrupted(model, noise, kept, after=after)
    told = Told()
    assert measured(model, noise, at=kept, told=told).to_json() == measured(model, noise).to_json()
    assert told.progress == []


def test_an_interrupt_before_the_first_batch_saves_nothing(model, noise, tmp_path):
    with pytest.raises(KeyboardInterrupt), Interrupt(1):
        measured(model, noise, at=tmp_path / "r.partial")
    assert not (tmp_path / "r.partial").exists()


def test_the_diversity_check_ignores_a_resumed_calibration(model, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (BATCH + 4, 32, 32, 3)).astype(np.uint8)
    pixels[BATCH:] = pixels[0]
    np.savez(tmp_path / "tail.npz", images=pixels)
    images, told = open_images(tmp_path / "tail.npz", SIDE, limit=BATCH + 4), Told()
    interrupted(model, images, tmp_path / "r.partial", after=1)
    measured(model, images, at=tmp_path / "r.partial", told=told)
    assert not any("the same" in sentence for sentence in told.notes)


def test_a_checkpoint_with_other_tensors_is_not_used(model, noise, tmp_path):
    kept, told = tmp_path / "r.partial", Told()
    interrupted(model, noise, kept, after=1)
    ranges = measure_activations(
        read_model(model),
        noise,
        empty(model, noise, "image", "h"),
        checkpoint=CalibrationCheckpoint(path=kept),
        note=told.notes.append,
        progress=no_progress,
        on_skipped=None,
    )
    (note,) = told.notes
    assert note.startswith(f"{kept} belongs to another calibration")
    assert ranges.statistics.keys() == {"image", "h"}
    assert ranges.images == COUNT


def test_a_resumed_calibration_uses_the_method_requested_now(model, noise, tmp_path):
    kept = tmp_path / "r.partial"
    interrupted(model, noise, kept, after=1)
    wanted = replace(empty(model, noise), method=CalibrationMethod(name="mse"))
    ranges = measure_activations(
        read_model(model),
        noise,
        wanted,
        checkpoint=CalibrationCheckpoint(path=kept),
        note=lambda sentence: None,
        progress=no_progress,
        on_skipped=None,
    )
    assert (ranges.method.name, ranges.images) == ("mse", COUNT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of which the first, one in the middle and the last can't be read."""
    path = tmp_path / "images"
    path.mkdir()
    generator = np.random.default_rng(2)
    for number in range(COUNT):
        pixels = generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path / f"{number:03}.png")
    for number in (0, BATCH + 2, COUNT - 1):
        (path / f"{number:03}.png").write_bytes(b"no image")
    return path


def test_a_broken_image_is_named_and_stops_it(model, folder):
    with refuses("image-unreadable") as caught:
        measured(model, open_images(folder, SIDE, limit=COUNT))
    assert "000.png" in caught.value.problem


def test_broken_images_can_be_left_out_interrupted_or_not(model, folder, tmp_path):
    images, told = open_images(folder, SIDE, limit=COUNT), Told()
    uninterrupted = measured(model, images, skip_bad=True, told=told)
    assert uninterrupted.images == COUNT - 3
    assert len(told.on_skipped) == 3
    kept = tmp_path / "r.partial"
    interrupted(model, images, kept, after=BATCH + 1, skip_bad=True)
    resumed = measured(model, images, at=kept, skip_bad=True)
    assert resumed.to_json() == uninterrupted.to_json()


@pytest.mark.parametrize(("weight", "between"), [(3e38, "Relu"), (3e38, "Neg"), (1.0, "Sqrt"), (1.0, "Log")])
def test_activations_that_are_not_finite_are_named(tmp_path, noise, weight, between):
    broken = two_convolutions(tmp_path / "broken.onnx", weight=weight, between=between)
    with refuses("activations-not-finite"):
        measured(broken, noise)


def test_the_image_alone_may_be_all_there_is_to_measure(model, noise):
    start = empty(model, noise, "image")
    ranges = measure_activations(
        read_model(model),
        noise,
        start,
        checkpoint=None,
        note=lambda sentence: None,
        progress=no_progress,
        on_skipped=None,
    )
    assert ranges.statistics["image"].peaks.counts.sum() == COUNT


def test_a_tensor_that_is_an_output_already_is_measured_too(tmp_path, noise):
    model = two_convolutions(tmp_path / "small.onnx")
    ranges = measure_activations(
        read_model(model),
        noise,
        empty(model, noise, "y"),
        checkpoint=None,
        note=lambda sentence: None,
        progress=no_progress,
        on_skipped=None,
    )
    assert ranges.statistics["y"].high > 0
