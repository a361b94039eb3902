"""Checkpoints are read from files, and unusable files are refused."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refuses
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file
from small_networks import small_network

from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.random_weights import random_weights
from deploykit.util.errors import DeployError

SMALL = small_network()


def as_torch(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in weights.state.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".PTH"])
def test_safetensors_and_torch_files_of_equal_weights_load_equally(tmp_path, suffix):
    weights = random_weights(SMALL, seed=3)
    save_file(dict(weights.state), tmp_path / "a.safetensors")
    torch.save(as_torch(weights), tmp_path / f"a{suffix}")
    first, second = load_weights(tmp_path / "a.safetensors"), load_weights(tmp_path / f"a{suffix}")
    for loaded in (first, second):
        assert loaded.state.keys() == weights.state.keys()
        for name, array in weights.state.items():
            np.testing.assert_array_equal(loaded.state[name], array)
        assert not loaded.is_random
    assert first.sha256 == second.sha256 == weights.sha256


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_halves_and_doubles_become_float32_and_batch_counters_are_dropped(tmp_path, suffix):
    state = {
        "half": torch.tensor([1.5], dtype=torch.float16),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "bn.num_batches_tracked": torch.tensor(7),
    }
    path = tmp_path / f"a{suffix}"
    save_torch_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = load_weights(path).state
    assert {name: (array.dtype, array[0]) for name, array in loaded.items()} == {
        "half": (np.float32, 1.5),
        "double": (np.float32, np.float32(0.1)),
    }


def test_bfloat16_safetensors_are_read_in_a_fresh_process(tmp_path):
    path = tmp_path / "a.safetensors"
    save_torch_file({"a": torch.tensor([1.5], dtype=torch.bfloat16)}, path)
    program = (
        "import sys; from pathlib import Path;"
        "from deploykit.networks.checkpoints.load import load_weights;"
        "print(load_weights(Path(sys.argv[1])).state['a'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, path], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.stdout == "[1.5]\n"


def test_bfloat16_torch_files_are_read(tmp_path):
    torch.save({"a": torch.tensor([1.5], dtype=torch.bfloat16)}, tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth").state["a"] == 1.5


def test_parameters_are_read_like_tensors(tmp_path):
    torch.save(dict(torch.nn.Linear(2, 2).named_parameters()), tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth").state["weight"].shape == (2, 2)


class RunsWhenUnpickled:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def save_plainly(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


def load_plainly(path: Path) -> object:
    return pickle.loads(path.read_bytes())


@pytest.mark.parametrize(
    ("save", "load_trustingly"),
    [(torch.save, lambda path: torch.load(path, weights_only=False)), (save_plainly, load_plainly)],
    ids=["torch", "pickle"],
)
def test_pickled_code_is_refused_and_not_run(tmp_path, save, load_trustingly):
    path, marker = tmp_path / "evil.pth", tmp_path / "was-run"
    save({"head.bias": RunsWhenUnpickled(marker)}, path)
    with refuses("checkpoint-has-code") as caught:
        load_weights(path)
    assert "state_dict" in caught.value.fix
    assert not marker.exists()
    load_trustingly(path)  # it is code that runs
    assert marker.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 1, 7, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    weights = random_weights(SMALL)
    save_file(dict(weights.state), path) if suffix == ".safetensors" else torch.save(as_torch(weights), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(DeployError, match=path.name):
        load_weights(path)


def test_a_file_of_the_old_torch_format_truncated_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        with pytest.raises(DeployError):
            load_weights(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_file_of_garbage_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>404 Not Found</html>" * 20)
    with pytest.raises(DeployError, match=name):
        load_weights(tmp_path / name)


@pytest.mark.parametrize(
    "saved", [{"optimizer": {"a": torch.ones(3)}}, torch.ones(3), [torch.ones(3)], {0: torch.ones(3)}]
)
def test_a_checkpoint_that_is_not_a_state_dict_is_refused(tmp_path, saved):
    torch.save(saved, tmp_path / "a.pth")
    with refuses("checkpoint-not-a-state-dict"):
        load_weights(tmp_path / "a.pth")


def test_missing_and_unsupported_files_are_refused(tmp_path):
    with refuses("checkpoint-not-found"):
        load_weights(tmp_path / "a.pth")
    (tmp_path / "a.h5").touch()
    with refuses("checkpoint-format-unsupported") as caught:
        load_weights(tmp_path / "a.h5")
    assert ".safetensors, .pth or .pt" in caught.value.fix
