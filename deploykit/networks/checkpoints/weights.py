"""A network's parameters as arrays, and how they are read from a checkpoint.

Names are timm's. Torch reads both kinds of file.
"""

import hashlib
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.networks.architecture.network import Network
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

if TYPE_CHECKING:
    from torch import Tensor

StateDict = Mapping[str, npt.NDArray[np.float32]]

# What torch.load raises on files cut short, from one place or another.
_DAMAGE = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    struct.error,
    AssertionError,
    TypeError,
    AttributeError,
)
# How training scripts call the weights, their moving average, and each tensor of a parallel module.
_WRAPPED, _AVERAGED = ("state_dict", "model"), ("state_dict_ema", "model_ema", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel's, torch.compile's, Lightning's
_LISTED = 5  # names an error spells out


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Parameters and batch-norm statistics by timm name, and where they came from.

    Attributes:
        origin: `random`, or the checkpoint's file name.
        sha256: digest of the names, shapes and values; equal weights have equal digests.
    """

    state: StateDict
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


def load_weights(path: Path, *, ema: bool = False) -> Weights:
    """Reads .safetensors, or .pth / .pt with weights_only, also from within what training wraps around them.

    Args:
        ema: take the moving average of the weights, where a checkpoint has both.

    Raises:
        DeployError: the file is missing, of another kind, damaged, or holds pickled code.
    """
    if not path.is_file():
        raise DeployError(
            f"There is no weights file {path}.",
            code="checkpoint-not-found",
            fix="give --weights an existing .safetensors or .pth",
        )
    readers = {".safetensors": _read_safetensors, ".pth": _read_torch, ".pt": _read_torch}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DeployError(
            f"{path} is not a kind of weights file that can be read.",
            code="checkpoint-format-unsupported",
            fix="give a .safetensors, .pth or .pt file",
        )
    tensors = {
        name: value
        for name, value in _without_prefixes(reader(path, ema)).items()
        if not name.endswith("num_batches_tracked")
    }
    imaginary = [name for name, tensor in tensors.items() if tensor.is_complex()]
    if imaginary:
        raise DeployError(
            f"{path} holds complex numbers in {_listing(imaginary)}.",
            code="checkpoint-values-invalid",
            fix="give real weights",
        )
    return Weights(
        state={name: tensor.detach().to_dense().float().numpy() for name, tensor in tensors.items()},
        origin=path.name,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMatch:
    """Attributes: matched, missing, misshaped, unknown: names of arrays, by how they suit a network."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    misshaped: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        return not (self.missing or self.misshaped or self.unknown)


def match(weights: Weights, network: Network) -> TensorMatch:
    """Which arrays the network needs are there, of its shape, and which are not its own."""
    wanted, given = network.state, weights.state
    there = [name for name in wanted if name in given]
    return TensorMatch(
        matched=tuple(name for name in there if given[name].shape == wanted[name]),
        missing=tuple(name for name in wanted if name not in given),
        misshaped=tuple(name for name in there if given[name].shape != wanted[name]),
        unknown=tuple(name for name in given if name not in wanted),
    )


def require_match(weights: Weights, network: Network) -> None:
    """Every array the network needs is there, of its shape, finite, and no other.

    Raises:
        DeployError: lists what is missing, mis-shaped or unknown.
    """
    found = match(weights, network)
    if not found.is_whole:
        raise DeployError(
            f"{weights.origin} does not fit this network: {describe_mismatch(found, weights, network)}.",
            code="checkpoint-network-mismatch",
            fix="give the --phi and --num-classes these weights were trained with",
        )
    _require_sound(weights)


def _require_sound(weights: Weights) -> None:
    """Every value is finite, and no variance negative.

    Raises:
        DeployError: lists where they are not.
    """
    state = weights.state
    broken = [name for name, array in state.items() if not np.isfinite(array).all()]
    negative = [name for name, array in state.items() if name.endswith("running_var") and array.min() < 0]
    for names, fault in ((broken, "values that are not finite"), (negative, "negative variances")):
        if names:
            raise DeployError(
                f"{weights.origin} holds {fault} in {_listing(names)}.",
                code="checkpoint-values-invalid",
                fix="give sound weights",
            )


def describe_mismatch(found: TensorMatch, weights: Weights, network: Network) -> str:
    """What does not suit the network, in words."""
    problems = {
        "missing": found.missing,
        "of another shape": [
            f"{name} {weights.state[name].shape} instead of {network.state[name]}" for name in found.misshaped
        ],
        "unknown": found.unknown,
    }
    return "; ".join(f"{len(names)} {kind} ({_listing(names)})" for kind, names in problems.items() if names)


def _without_prefixes(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Less what all names begin with that only says how the network was wrapped."""
    for prefix in _PREFIXES * 2:  # one may be within another
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown}, and {len(names) - _LISTED} more"


def _read_safetensors(path: Path, ema: bool) -> "dict[str, Tensor]":
    if ema:
        raise DeployError(
            f"{path} holds one set of weights.", code="checkpoint-has-no-ema", fix="leave out --ema"
        )
    reader = require("safetensors.torch")  # its NumPy reader knows no bfloat16
    from safetensors import SafetensorError

    try:
        tensors: dict[str, Tensor] = reader.load_file(path)
    except (SafetensorError, OSError) as error:
        raise DeployError(
            f"{path} is damaged or not safetensors: {error}.",
            code="checkpoint-damaged",
            fix="fetch the file again",
        ) from error
    return tensors


def _read_torch(path: Path, ema: bool) -> "dict[str, Tensor]":
    torch = require("torch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DeployError(
            f"{path} holds pickled code besides weights, or is no checkpoint.",
            code="checkpoint-has-code",
            fix="save its state_dict alone, best as .safetensors",
        ) from error
    except _DAMAGE as error:
        raise DeployError(
            f"{path} is damaged or no torch checkpoint.",
            code="checkpoint-damaged",
            fix="fetch the file again",
        ) from error
    state = _unwrapped(state, path, ema=ema)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        held = (
            ", ".join(map(str, state))
            if isinstance(state, dict) and len(state) <= _LISTED
            else "other things"
        )
        raise DeployError(
            f"{path} is not a state dict of tensors: it holds {held}.",
            code="checkpoint-not-a-state-dict",
            fix="save the state dict by itself: torch.save(model.state_dict(), path)",
        )
    return state


def _unwrapped(state: object, path: Path, *, ema: bool) -> object:
    """What a training script wrapped: the weights themselves, or their moving average."""
    if not isinstance(state, dict):
        return state
    averaged = next((state[key] for key in _AVERAGED if isinstance(state.get(key), dict)), None)
    if ema:
        if averaged is None:
            raise DeployError(
                f"{path} has no moving average of its weights.",
                code="checkpoint-has-no-ema",
                fix="leave out --ema",
            )
        return averaged
    plain = next((state[key] for key in _WRAPPED if isinstance(state.get(key), dict)), averaged)
    return state if plain is None else plain
