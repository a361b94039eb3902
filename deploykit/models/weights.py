"""A network's parameters as arrays: read from a checkpoint, or drawn at random.

Names are timm's. Torch is needed for .pth files alone.
"""

import hashlib
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.architecture.graph import (
    INPUT,
    Activation,
    Add,
    ChannelScale,
    Convolution,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Network,
)
from deploykit.errors import DeployError

State = Mapping[str, npt.NDArray[np.float32]]

BATCH_NORM_EPSILON = 1e-5  # timm's and torch's default
_LISTED = 5  # names an error spells out


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Parameters and batch-norm statistics by timm name, and where they came from.

    Attributes:
        origin: `random`, or the checkpoint's file name.
        sha256: digest of the names, shapes and values; equal weights have equal digests.
    """

    state: State
    origin: str

    @property
    def is_random(self) -> bool:
        return self.origin == "random"

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.state):
            array = self.state[name]
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def random_weights(network: Network, *, seed: int = 0) -> Weights:
    """Weights that keep activations in FP16's range: right for latency, useless for accuracy.

    Each weight's variance is the inverse of its fan-in times the mean square of what it reads, so
    that convolutions make roughly unit variance and the logits stay in the hundreds at any depth.

    References:
        He et al., arXiv:1502.01852, section 2.2, with the mean squares followed through the graph.
    """
    generator = np.random.default_rng(seed)
    state = {
        name: (np.ones if name.endswith("running_var") else np.zeros)(shape, np.float32)
        for name, shape in network.state.items()
    }
    quiet = _quiet_layers(network)
    mean_square = {INPUT: 1.0}
    for layer in network.layers:
        mean_square[layer.name] = _mean_square(layer, [mean_square[name] for name in layer.inputs])
        if isinstance(layer, Convolution | Linear):
            shape = layer.weight_shape
            gain = _QUIET_GAIN if layer.name in quiet else 1
            std = gain / math.sqrt(math.prod(shape[1:]) * mean_square[layer.inputs[0]])
            state[f"{layer.name}.weight"] = generator.standard_normal(shape, np.float32) * np.float32(std)
        if isinstance(layer, Convolution) and layer.norm is not None:
            state[f"{layer.norm}.weight"] += 1
    return Weights(state=state, origin="random")


# Mean squares of f(x) for x ~ N(0, 1), by numerical integration; sigmoids stay near one half.
_ACTIVATION_MEAN_SQUARE = {"silu": 0.356, "sigmoid": 0.25, "relu": 0.5, "relu6": 0.5}
_QUIET_GAIN = 0.2
_POOLED_MEAN_SQUARE = 0.043  # the square of silu's mean: pooling leaves little else


def _quiet_layers(network: Network) -> set[str]:
    """Residual branches and gates: at full gain, chance deviations compound over fifty blocks."""
    return {
        layer.inputs[0]
        for layer in network.layers
        if isinstance(layer, Add) or (isinstance(layer, Activation) and layer.kind == "sigmoid")
    }


def _mean_square(layer: Layer, inputs: list[float]) -> float:
    match layer:
        case Activation():
            return _ACTIVATION_MEAN_SQUARE[layer.kind]
        case GlobalAveragePool():
            return _POOLED_MEAN_SQUARE
        case MaxPool():
            return inputs[0]
        case Add():
            return inputs[1] + _QUIET_GAIN**2
        case ChannelScale():
            return math.prod(inputs)
    return 1.0


def load_weights(path: Path) -> Weights:
    """Reads .safetensors, or .pth / .pt with weights_only.

    Raises:
        DeployError: the file is missing, of another kind, damaged, or holds pickled code.
    """
    if not path.is_file():
        raise DeployError(
            f"There is no weights file {path}.", fix="give --weights an existing .safetensors or .pth"
        )
    readers = {".safetensors": _read_safetensors, ".pth": _read_torch, ".pt": _read_torch}
    if path.suffix not in readers:
        raise DeployError(
            f"{path} is not a kind of weights file that can be read.",
            fix="give a .safetensors, .pth or .pt file",
        )
    state = readers[path.suffix](path)
    return Weights(
        state={name: array for name, array in state.items() if not name.endswith("num_batches_tracked")},
        origin=path.name,
    )


def require_match(weights: Weights, network: Network) -> None:
    """Every array the network needs is there, of its shape, finite, and no other.

    Raises:
        DeployError: lists what is missing, mis-shaped or unknown.
    """
    wanted, given = network.state, weights.state
    problems = {
        "missing": [name for name in wanted if name not in given],
        "of another shape": [
            f"{name} {given[name].shape} instead of {shape}"
            for name, shape in wanted.items()
            if name in given and given[name].shape != shape
        ],
        "unknown": [name for name in given if name not in wanted],
    }
    found = [f"{len(names)} {kind} ({_listing(names)})" for kind, names in problems.items() if names]
    if found:
        raise DeployError(
            f"{weights.origin} does not fit this network: {'; '.join(found)}.",
            fix="give the --phi and --num-classes these weights were trained with, under timm's names",
        )
    broken = [name for name, array in given.items() if not np.isfinite(array).all()]
    if broken:
        raise DeployError(
            f"{weights.origin} holds values that are not finite in {_listing(broken)}.",
            fix="give sound weights",
        )


def _listing(names: list[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown}, and {len(names) - _LISTED} more"


def _read_safetensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {name: array.astype(np.float32) for name, array in load_file(path).items()}
    except SafetensorError as error:
        raise DeployError(
            f"{path} is damaged or not safetensors: {error}.", fix="fetch the file again"
        ) from error


def _read_torch(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DeployError(
            f"{path} holds pickled code besides weights, or is no checkpoint.",
            fix="save its state_dict alone, best as .safetensors",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DeployError(f"{path} is damaged or no torch checkpoint.", fix="fetch the file again") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DeployError(f"{path} is not a state dict of tensors.", fix="save model.state_dict() into it")
    return {name: tensor.to(torch.float32).numpy() for name, tensor in state.items()}
