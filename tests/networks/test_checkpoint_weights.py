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

from deploykit.networks.architecture.builder import NetworkBuilder
from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.tensor_match import require_tensor_match
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.member import choose_member
from deploykit.networks.random_weights import random_weights
from deploykit.networks.scaling import scale_for
from deploykit.networks.torch_module import build_module
from deploykit.util.errors import DeployError

FP16_MAX = 65504


def small_network() -> Network:
    net = NetworkBuilder(8)
    net.conv("stem", 4, kernel=3, norm="bn")
    net.activation("relu")
    net.global_average_pool("pool")
    net.linear("head", 5)
    return net.network("small")


SMALL = small_network()


def with_state(**changes: np.ndarray | None) -> Weights:
    """Fitting weights with some arrays changed, or left out where None; __ stands for a dot."""
    state = dict(random_weights(SMALL).state)
    for name, array in changes.items():
        state[name.replace("__", ".")] = array
    return Weights(
        state={name: array for name, array in state.items() if array is not None}, origin="mine.pth"
    )


def as_torch(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in weights.state.items()}


def test_weights_that_fit_are_let_through():
    require_tensor_match(random_weights(SMALL), SMALL)


def test_all_that_does_not_fit_is_listed_at_once():
    weights = with_state(
        stem__weight=np.zeros((4, 3, 5, 5), np.float32), head__bias=None, fc__bias=np.zeros(5, np.float32)
    )
    with refuses("checkpoint-network-mismatch") as caught:
        require_tensor_match(weights, SMALL)
    assert caught.value.problem == (
        "mine.pth does not fit this network: 1 missing (head.bias); "
        "1 of another shape (stem.weight (4, 3, 5, 5) instead of (4, 3, 3, 3)); 1 unknown (fc.bias)."
    )
    assert "--num-classes" in caught.value.fix


def test_a_long_list_of_what_does_not_fit_is_cut_to_five_names():
    with refuses("checkpoint-network-mismatch"):
        require_tensor_match(Weights(state={}, origin="empty.pth"), SMALL)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name(value):
    bias = np.zeros(5, np.float32)
    bias[3] = value
    with refuses("checkpoint-values-invalid"):
        require_tensor_match(with_state(head__bias=bias), SMALL)


def test_a_negative_variance_is_refused_by_name():
    with refuses("checkpoint-values-invalid"):
        require_tensor_match(with_state(bn__running_var=np.array([1, 2, -0.5, 1], np.float32)), SMALL)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".PTH"])
def test_safetensors_and_torch_files_of_the_same_weights_are_the_same(tmp_path, suffix):
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


def test_parameters_saved_as_such_are_read(tmp_path):
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
def test_a_file_cut_short_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    weights = random_weights(SMALL)
    save_file(dict(weights.state), path) if suffix == ".safetensors" else torch.save(as_torch(weights), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(DeployError, match=path.name):
        load_weights(path)


def test_a_file_of_torchs_old_format_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        with pytest.raises(DeployError):
            load_weights(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_garbage_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>404 Not Found</html>" * 20)
    with pytest.raises(DeployError, match=name):
        load_weights(tmp_path / name)


@pytest.mark.parametrize(
    "saved", [{"optimizer": {"a": torch.ones(3)}}, torch.ones(3), [torch.ones(3)], {0: torch.ones(3)}]
)
def test_a_checkpoint_that_is_more_than_a_state_dict_is_refused(tmp_path, saved):
    torch.save(saved, tmp_path / "a.pth")
    with refuses("checkpoint-not-a-state-dict"):
        load_weights(tmp_path / "a.pth")


def test_a_missing_file_and_another_kind_are_refused(tmp_path):
    with refuses("checkpoint-not-found"):
        load_weights(tmp_path / "a.pth")
    (tmp_path / "a.h5").touch()
    with refuses("checkpoint-format-unsupported") as caught:
        load_weights(tmp_path / "a.h5")
    assert ".safetensors, .pth or .pt" in caught.value.fix


def test_a_digest_tells_names_shapes_and_values_apart_and_ignores_order():
    ones = np.ones(4, np.float32)
    digest = Weights(state={"a": ones, "b": ones * 2}, origin="x").sha256
    assert Weights(state={"b": ones * 2, "a": ones}, origin="y").sha256 == digest
    others = [
        {"a": ones, "c": ones * 2},
        {"a": ones, "b": ones * 3},
        {"a": ones.reshape(2, 2), "b": ones * 2},
        {"a": ones * 2, "b": ones},
    ]
    assert len({digest, *(Weights(state=state, origin="x").sha256 for state in others)}) == 5


def test_random_weights_depend_on_the_seed_alone():
    assert random_weights(SMALL, seed=1).sha256 == random_weights(SMALL, seed=1).sha256
    assert random_weights(SMALL, seed=1).sha256 != random_weights(SMALL, seed=2).sha256
    assert random_weights(SMALL).is_random


def test_random_weights_make_unit_variance_of_what_a_convolution_reads():
    # A fan-in of 3 * 3 * 3 numbers of unit variance.
    net = NetworkBuilder(8)
    net.conv("stem", 20_000, kernel=3)
    assert random_weights(net.network("wide")).state["stem.weight"].std() == pytest.approx(27**-0.5, rel=0.01)


@pytest.mark.parametrize(
    ("family", "member"),
    [("efficientnet", "b0"), ("efficientnet", "b3"), ("efficientnetv2-s", "s"), ("resnet50", "50")],
)
def test_random_weights_keep_every_activation_in_fp16s_range_and_the_logits_apart(family, member):
    network = choose_member(family, named=member).network()
    module = build_module(network, random_weights(network))
    peaks = []
    for part in module.modules():
        if not list(part.children()) and part is not module:  # what these read is all there is
            part.register_forward_hook(
                lambda _, given, made: peaks.extend(tensor.abs().max().item() for tensor in (*given, made))
            )
    images = torch.randn(1, *network.input, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = module(images)
    assert len(peaks) > 2 * 80
    assert max(peaks) < FP16_MAX / 50
    assert min(peaks) > 2.0**-14  # FP16's smallest normal number
    assert logits.std() > 0.1


def test_the_trained_checkpoint_fits_a_b0_of_ten_classes_and_no_other(shared):
    weights = load_weights(shared / "efficientnet_b0_cifar10_64px.safetensors")
    require_tensor_match(weights, efficientnet(scale_for(0), num_classes=10))
    with refuses("checkpoint-network-mismatch"):
        require_tensor_match(weights, efficientnet(scale_for(0)))
    # Without batch counters timm's B1 has 439 tensors, B0 311 of them.
    with refuses("checkpoint-network-mismatch"):
        require_tensor_match(weights, efficientnet(scale_for(1), num_classes=10))
