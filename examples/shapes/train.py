"""Train the shapes model on the CPU, in seven minutes on two cores.

python examples/shapes/train.py --out weights.safetensors

A NetworkModule is an ordinary torch module with batch norms, and the same one that `deploykit export` checks
its ONNX model against. A seed gives the same images everywhere. Torch rounds differently on different
processors, so weights trained elsewhere differ, and their top-1 differs by a point or so.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from render import CLASSES, SIDE_PX, TRAINING_SEED, VALIDATION_SEED, LabelledImages, render
from safetensors.torch import save
from torch import Tensor, nn

from deploykit.data.preprocessing import Preprocessing
from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.scaling import scale_for
from deploykit.networks.torch_module import NetworkModule, build_module
from deploykit.util.atomic_files import require_writable, write_atomically
from deploykit.util.errors import DeployError

PHI = -6
WEIGHTS = Path(__file__).parent / "weights.safetensors"
VALIDATION_COUNT = 4000
_EVALUATION_BATCH = 100
_MOMENTUM = 0.95  # at a low learning rate; OneCycleLR lowers it to 0.85 at the peak

Log = Callable[[str], None]
"""Receives a line of text per epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train; peak_rate is the learning rate after a fifth of the single cycle."""

    images: int = 12_000
    epochs: int = 15
    batch: int = 32
    peak_rate: float = 0.07
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05


def build_network() -> Network:
    """Build EfficientNet at phi -6 by the formula, for small images."""
    return efficientnet(replace(scale_for(PHI, rule="formula"), side_px=SIDE_PX), num_classes=len(CLASSES))


def train(data: LabelledImages, recipe: Recipe, log: Log) -> NetworkModule:
    """Train a module, and log a line per epoch."""
    torch.manual_seed(0)
    module = NetworkModule(build_network())
    optimizer = torch.optim.SGD(
        _parameter_groups(module, recipe), lr=recipe.peak_rate, momentum=_MOMENTUM, nesterov=True
    )
    steps = len(data.images) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, total_steps=recipe.epochs * steps, pct_start=0.2
    )
    loss_function = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    for epoch in range(recipe.epochs):
        total = 0.0
        for images, labels in _batches(data, recipe.batch):
            loss = loss_function(module(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        log(f"epoch {epoch + 1} of {recipe.epochs}: loss {total / steps:.3f}")
    return module


def serialize(module: NetworkModule) -> bytes:
    """Return the state as safetensors: weights in FP16 for half the size, batch norms in FP32."""
    state = {
        name: (tensor.half() if tensor.ndim > 1 else tensor).contiguous()
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    return save(state)


def measure_top1(weights: Path, data: LabelledImages) -> float:
    """Return the fraction of images that the weights of a file classify correctly."""
    module = build_module(build_network(), load_weights(weights))
    inputs = torch.from_numpy(Preprocessing(side_px=SIDE_PX).normalize(data.images))
    with torch.inference_mode():
        logits = torch.cat([module(batch) for batch in torch.split(inputs, _EVALUATION_BATCH)])
    return float((logits.argmax(dim=1) == torch.from_numpy(data.labels)).float().mean())


def _parameter_groups(module: NetworkModule, recipe: Recipe) -> list[dict[str, object]]:
    """Return parameter groups: weights decay, biases and batch norms do not."""
    parameters = list(module.parameters())
    return [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]


def _batches(data: LabelledImages, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches, each rotated and mirrored in one of the eight lossless ways."""
    preprocessing = Preprocessing(side_px=SIDE_PX)
    order = torch.randperm(len(data.images)).numpy()
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        images = torch.from_numpy(preprocessing.normalize(data.images[chosen]))
        symmetry = int(torch.randint(8, ()))
        images = torch.rot90(images, symmetry % 4, (2, 3))
        if symmetry >= 4:
            images = images.flip(3)
        yield images.contiguous(memory_format=torch.channels_last), torch.from_numpy(data.labels[chosen])


@click.command(epilog="Example: python examples/shapes/train.py --out weights.safetensors")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=WEIGHTS, show_default=True)
@click.option("--images", type=click.IntRange(1000, 100_000), default=Recipe().images, show_default=True)
@click.option("--epochs", type=click.IntRange(1, 1000), default=Recipe().epochs, show_default=True)
@click.option("--threads", type=click.IntRange(1, 256), default=2, show_default=True)
def main(out: Path, images: int, epochs: int, threads: int) -> None:
    """Train the shapes model and write its weights."""
    torch.set_num_threads(threads)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    try:
        require_writable(out)
        click.echo(f"rendering {images} images")
        data = render(images, TRAINING_SEED)
        module = train(data, Recipe(images=images, epochs=epochs), click.echo)
        write_atomically(out, serialize(module))
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
        top1 = measure_top1(out, render(VALIDATION_COUNT, VALIDATION_SEED))
    except DeployError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {out.stat().st_size / 1e6:.2f} MB, top-1 {top1:.2%} of {VALIDATION_COUNT} images")
    click.echo(f"trained in {seconds:.0f} s; {cpu_seconds:.0f} s of processor time")


if __name__ == "__main__":
    main()
