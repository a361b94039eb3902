"""Tensors of a checkpoint are compared with those of a network."""

import numpy as np
import pytest
from refusals import refuses
from small_networks import small_network

from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.tensor_match import require_tensor_match
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.random_weights import random_weights
from deploykit.networks.scaling import scale_for

SMALL = small_network()


def with_state(**changes: np.ndarray | None) -> Weights:
    """Fitting weights with some arrays changed, or left out where None; __ stands for a dot."""
    state = dict(random_weights(SMALL).state)
    for name, array in changes.items():
        state[name.replace("__", ".")] = array
    return Weights(
        state={name: array for name, array in state.items() if array is not None}, origin="mine.pth"
    )


def test_matching_weights_are_accepted():
    require_tensor_match(random_weights(SMALL), SMALL)


def test_all_mismatches_are_listed_at_once():
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


def test_a_long_list_of_mismatches_is_cut_to_five_names():
    with refuses("checkpoint-network-mismatch"):
        require_tensor_match(Weights(state={}, origin="empty.pth"), SMALL)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_is_refused_by_name(value):
    bias = np.zeros(5, np.float32)
    bias[3] = value
    with refuses("checkpoint-values-invalid"):
        require_tensor_match(with_state(head__bias=bias), SMALL)


def test_a_negative_variance_is_refused_by_name():
    with refuses("checkpoint-values-invalid"):
        require_tensor_match(with_state(bn__running_var=np.array([1, 2, -0.5, 1], np.float32)), SMALL)


def test_a_digest_depends_on_names_shapes_and_values_but_not_order():
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


def test_the_trained_checkpoint_fits_only_a_b0_of_ten_classes(shared):
    weights = load_weights(shared / "efficientnet_b0_cifar10_64px.safetensors")
    require_tensor_match(weights, efficientnet(scale_for(0), num_classes=10))
    with refuses("checkpoint-network-mismatch"):
        require_tensor_match(weights, efficientnet(scale_for(0)))
    # Without batch counters timm's B1 has 439 tensors, B0 311 of them.
    with refuses("checkpoint-network-mismatch"):
        require_tensor_match(weights, efficientnet(scale_for(1), num_classes=10))
