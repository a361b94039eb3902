"""Reading weights from checkpoint files: .safetensors, .pth and .pt, without running code in them."""

import pickle
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.networks.checkpoints.tensor_match import join_names
from deploykit.networks.checkpoints.weights import Weights
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

if TYPE_CHECKING:
    from torch import Tensor

# Exceptions that torch.load raises for truncated files.
_DAMAGE_ERRORS = (
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
# Keys under which training scripts store the weights and their moving average.
_WEIGHTS_KEYS, _EMA_KEYS = ("state_dict", "model"), ("state_dict_ema", "model_ema", "ema")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel's, torch.compile's, Lightning's
_MAX_LISTED_KEYS = 5


def load_weights(path: str | Path, *, ema: bool = False) -> Weights:
    """Read a checkpoint: .safetensors, or .pth and .pt with weights_only.

    The weights may stand under `state_dict` or `model`, and names may carry a wrapper's prefix (`module.`).

    Args:
        path: The checkpoint.
        ema: Take the moving average of the weights from a checkpoint that has both.

    Raises:
        DeployError: The file is missing, damaged, of an unsupported format, or contains pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise DeployError(
            f"The weights file {path} does not exist.",
            code="checkpoint-not-found",
            fix="pass an existing .safetensors, .pth or .pt file to --weights",
        )
    readers = {".safetensors": _read_safetensors, ".pth": _read_torch, ".pt": _read_torch}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DeployError(
            f"{path} is not in a supported weights format.",
            code="checkpoint-format-unsupported",
            fix="give a .safetensors, .pth or .pt file",
        )
    tensors = {
        name: value
        for name, value in _strip_wrapper_prefixes(reader(path, ema)).items()
        if not name.endswith("num_batches_tracked")
    }
    complex_names = [name for name, tensor in tensors.items() if tensor.is_complex()]
    if complex_names:
        raise DeployError(
            f"{path} contains complex numbers in {join_names(complex_names)}.",
            code="checkpoint-values-invalid",
            fix="give a checkpoint with real-valued weights",
        )
    return Weights(
        state={name: tensor.detach().to_dense().float().numpy() for name, tensor in tensors.items()},
        origin=path.name,
    )


def _strip_wrapper_prefixes(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Remove prefixes that all names share and that only say how the network was wrapped."""
    for prefix in _WRAPPER_PREFIXES * 2:  # one wrapper may be inside another
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path, ema: bool) -> "dict[str, Tensor]":
    if ema:
        raise DeployError(
            f"{path} contains a single set of weights, without a moving average.",
            code="checkpoint-has-no-ema",
            fix="remove --ema",
        )
    reader = require("safetensors.torch")  # the NumPy reader does not support bfloat16
    from safetensors import SafetensorError

    try:
        tensors: dict[str, Tensor] = reader.load_file(path)
    except (SafetensorError, OSError) as error:
        raise DeployError(
            f"{path} is damaged or not a safetensors file: {error}.",
            code="checkpoint-damaged",
            fix="download the file again",
        ) from error
    return tensors


def _read_torch(path: Path, ema: bool) -> "dict[str, Tensor]":
    torch = require("torch")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DeployError(
            f"{path} contains pickled code besides weights, or is not a checkpoint.",
            code="checkpoint-has-code",
            fix="save only its state_dict, preferably as .safetensors",
        ) from error
    except _DAMAGE_ERRORS as error:
        raise DeployError(
            f"{path} is damaged or not a torch checkpoint.",
            code="checkpoint-damaged",
            fix="download the file again",
        ) from error
    state = _unwrap(checkpoint, path, ema=ema)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        keys = list(state) if isinstance(state, dict) else []
        contents = ", ".join(map(str, keys)) if 0 < len(keys) <= _MAX_LISTED_KEYS else "other objects"
        raise DeployError(
            f"{path} is not a state dict of tensors; it contains {contents}.",
            code="checkpoint-not-a-state-dict",
            fix="save only the state dict: torch.save(model.state_dict(), path)",
        )
    return state


def _unwrap(checkpoint: object, path: Path, *, ema: bool) -> object:
    """Return the weights, or their moving average, from a training script's checkpoint."""
    if not isinstance(checkpoint, dict):
        return checkpoint
    average = next((checkpoint[key] for key in _EMA_KEYS if isinstance(checkpoint.get(key), dict)), None)
    if ema:
        if average is None:
            raise DeployError(
                f"{path} has no moving average of its weights.",
                code="checkpoint-has-no-ema",
                fix="remove --ema",
            )
        return average
    plain = next((checkpoint[key] for key in _WEIGHTS_KEYS if isinstance(checkpoint.get(key), dict)), average)
    return checkpoint if plain is None else plain
