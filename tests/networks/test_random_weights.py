"""Random weights keep activations in FP16's range."""

import pytest
import torch
from small_networks import small_network

from deploykit.networks.architecture.builder import NetworkBuilder
from deploykit.networks.member import choose_member
from deploykit.networks.random_weights import random_weights
from deploykit.networks.torch_module import build_module

FP16_MAX = 65504

SMALL = small_network()


def test_random_weights_depend_only_on_the_seed():
    assert random_weights(SMALL, seed=1).sha256 == random_weights(SMALL, seed=1).sha256
    assert random_weights(SMALL, seed=1).sha256 != random_weights(SMALL, seed=2).sha256
    assert random_weights(SMALL).is_random


def test_random_weights_give_convolutions_unit_variance():
    # A fan-in of 3 * 3 * 3 numbers of unit variance.
    net = NetworkBuilder(8)
    net.conv("stem", 20_000, kernel=3)
    assert random_weights(net.network("wide")).state["stem.weight"].std() == pytest.approx(27**-0.5, rel=0.01)


@pytest.mark.parametrize(
    ("family", "member"),
    [("efficientnet", "b0"), ("efficientnet", "b3"), ("efficientnetv2-s", "s"), ("resnet50", "50")],
)
def test_random_weights_keep_activations_in_the_fp16_range_and_logits_distinct(family, member):
    network = choose_member(family, named=member, side_px=96).network()
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
