"""Time, memory and result of INT8 calibration, beside ONNX Runtime's and NVIDIA ModelOpt's.

    python benchmarks/calibration.py FOLDER

FOLDER holds efficientnet_b0_cifar10_64px.safetensors, cifar10_calib.npz and cifar10_val.npz (arrays
`images`, uint8 NHWC, and `labels`). Prints Markdown.

EfficientNet-B0 at 224 px, calibrated on a folder of PNG files. Every side runs as a process of its
own, interpreter and imports included, in turn with the others, short runs several times: then
figures are medians. The yardstick is a process that runs the unchanged model over the same images
and keeps nothing. The peers write the quantized model in the same process, deploykit in a second
one: `written` counts both, and is what deploykit and its peers are compared by. Ratios hold better
than seconds from one machine to the next.

Top-1, agreement with FP32 and SQNR are of images of all classes, unfused: the arithmetic TensorRT
does. The model was trained at 64 px, where int8_accuracy.py judges the methods. Here an image
stands three by three times, which keeps its objects near the size they had in training; FP32's own
top-1 is printed with it.
"""

import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from peers.calibration_report import (
    FEW_IMAGES,
    MANY_IMAGES,
    PROBE_IMAGES,
    Costs,
    expected_cost,
    print_ratios,
    print_table,
)
from peers.contenders import YARDSTICK, Contender, modelopt, onnxruntime, run, yardstick
from peers.data import CALIBRATION, MODEL, VALIDATION, folder_argument
from peers.deploykit_side import deploykit
from peers.pictures import normalize
from peers.processes import Cost, Unfinished, memory_limit_gb
from peers.scores import Scores, logits, score

SIDE_PX = 224
REPEATS = 3  # of an image, in height and in width
VALIDATION_IMAGES = 200
ROUNDS = 3
ONNXRUNTIME_METHODS = ("minmax", "percentile-99.99", "entropy")
LONGEST_S = 150  # a run that would take longer is predicted instead

Pixels = npt.NDArray[np.uint8]


def main() -> None:
    folder = folder_argument(MODEL)
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        model, data = _exported(folder, scratch), _written(folder / CALIBRATION, scratch / "images")
        contenders = (
            yardstick(model, data, rounds=ROUNDS),
            *deploykit(model, data, policies=["bandwidth"], rounds=ROUNDS),
            *onnxruntime(model, data, ONNXRUNTIME_METHODS),
            *modelopt(model, data),
        )
        costs = _in_turn((each for each in contenders if each.grows), PROBE_IMAGES, scratch)
        costs |= _in_turn(contenders, FEW_IMAGES, scratch)
        feasible = (each for each in contenders if _is_feasible(each, costs))
        costs |= _in_turn(feasible, MANY_IMAGES, scratch)
        scores = _scores(contenders, costs, model, folder / VALIDATION, scratch)
    print_table([each.name for each in contenders], costs, scores)
    print_ratios(costs)


def _exported(folder: Path, scratch: Path) -> Path:
    from deploykit.networks.export import export_onnx

    weights = folder / f"{MODEL}.safetensors"
    return export_onnx(0, weights=weights, side_px=SIDE_PX, output=scratch / "model.onnx").path


def _written(archive: Path, folder: Path) -> Path:
    """The archive's images at SIDE_PX, as files."""
    from PIL import Image

    folder.mkdir()
    with np.load(archive) as arrays:
        for index, pixels in enumerate(_enlarged(arrays["images"])):
            Image.fromarray(pixels).save(folder / f"{index:04}.png", compress_level=1)
    return folder


def _enlarged(images: Pixels) -> Iterator[Pixels]:
    from PIL import Image

    side = -(-SIDE_PX // REPEATS)
    for image in images:
        larger = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        yield np.tile(larger, (REPEATS, REPEATS, 1))[:SIDE_PX, :SIDE_PX]


def _in_turn(contenders: Iterable[Contender], count: int, scratch: Path) -> Costs:
    """Medians. Round by round, so that a drift of the machine meets all alike."""
    contenders = tuple(contenders)
    samples: dict[str, list[Cost]] = defaultdict(list)
    for number in range(ROUNDS):
        for each in contenders:
            if number < each.rounds:
                if sys.stderr.isatty():
                    print(f"{count} images, round {number + 1}: {each.name}", file=sys.stderr)
                try:
                    samples[each.name].append(run(each, count, _output(each, count, scratch)))
                except Unfinished as error:
                    print(error, file=sys.stderr)
    return {(name, count): _median(costs) for name, costs in samples.items()}


def _output(contender: Contender, count: int, scratch: Path) -> Path:
    return scratch / f"{contender.name.replace(' ', '_')}.{count}.onnx"


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        **{
            field.name: statistics.median(getattr(cost, field.name) for cost in costs)
            for field in fields(Cost)
        }
    )


def _is_feasible(contender: Contender, costs: Costs) -> bool:
    if not contender.grows:
        return True
    if not {(contender.name, PROBE_IMAGES), (contender.name, FEW_IMAGES)} <= costs.keys():
        return False
    expected = expected_cost(contender.name, costs)
    return expected.peak_gb < memory_limit_gb() and expected.seconds < LONGEST_S


def _scores(
    contenders: Iterable[Contender], costs: Costs, model: Path, validation: Path, scratch: Path
) -> dict[tuple[str, int], Scores]:
    """Of every model made from FEW_IMAGES and MANY_IMAGES; the yardstick's is the FP32 model itself."""
    with np.load(validation) as arrays:
        chosen = np.linspace(0, len(arrays["labels"]), VALIDATION_IMAGES, endpoint=False, dtype=int)
        labels = arrays["labels"][chosen]
        images = normalize(np.stack(list(_enlarged(arrays["images"][chosen]))))
    reference = logits(model, images)
    scores = {}
    for each in contenders:
        for count in (FEW_IMAGES, MANY_IMAGES):
            if (each.name, count) in costs:
                made = _output(each, count, scratch) if each.name != YARDSTICK else model
                scores[each.name, count] = score(logits(made, images), reference, labels)
    return scores


if __name__ == "__main__":
    main()
