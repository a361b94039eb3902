from dataclasses import replace

import numpy as np
import pytest
import torch

from deploykit.data.preprocessing import Preprocessing
from deploykit.networks.architecture.builder import NetworkBuilder
from deploykit.networks.architecture.network import Layer, Network
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.families.mobilenet_v2 import mobilenet_v2
from deploykit.networks.families.resnet import resnet
from deploykit.networks.model_info import ModelInfo
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.networks.random_weights import random_weights
from deploykit.networks.scaling import BASE, Scale, scale_for
from deploykit.networks.torch_check import difference_from_torch
from deploykit.networks.torch_module import NetworkModule, build_module
from deploykit.onnx_tools.model_io import to_bytes


def outputs_of(network: Network, state: dict[str, list[float]], images: np.ndarray) -> np.ndarray:
    shapes = network.state_shapes
    weights = Weights(
        state={name: np.array(values, np.float32).reshape(shapes[name]) for name, values in state.items()},
        origin="hand",
    )
    with torch.inference_mode():
        return build_module(network, weights)(torch.from_numpy(images.astype(np.float32))).numpy()


def image(side_px: int) -> np.ndarray:
    """Three equal channels that count 1, 2, 3, ... over rows and columns."""
    values = np.arange(1, side_px**2 + 1).reshape(side_px, side_px)
    return np.stack([values] * 3)[None]


@pytest.mark.parametrize(
    "network",
    [
        efficientnet(scale_for(0)),
        efficientnet(scale_for(2.5)),
        resnet(50),
        mobilenet_v2(replace(BASE, width=0.5)),
    ],
    ids=["b0", "phi2.5", "resnet50", "mobilenet_v2"],
)
def test_the_state_dict_has_the_names_and_shapes_of_the_network(network):
    with torch.device("meta"):
        state = NetworkModule(network).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    counters = {name for name in shapes if name.endswith(".num_batches_tracked")}
    assert len(counters) == sum(conv.norm is not None for conv in network.convolutions)
    assert {name: shape for name, shape in shapes.items() if name not in counters} == dict(
        network.state_shapes
    )


def test_the_trained_model_gives_the_logits_of_timm(shared, validation):
    expected = np.load(shared / "expected_logits.npz")["logits"]
    network = efficientnet(Scale(width=1, depth=1, side_px=64), num_classes=10)
    module = build_module(network, load_weights(shared / "efficientnet_b0_cifar10_64px.safetensors"))
    images = Preprocessing(side_px=64).normalize(validation.pixels[:64])
    with torch.inference_mode():
        logits = module(torch.from_numpy(images)).numpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_output_of_an_image_does_not_depend_on_its_batch():
    network = efficientnet(Scale(width=1, depth=1, side_px=32), num_classes=3)
    module = build_module(network, random_weights(network))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, alone = module(images), module(images[1:2])
    assert not module.training
    torch.testing.assert_close(together[1:2], alone)


def test_a_convolution_and_its_norm_match_a_hand_computation():
    net = NetworkBuilder(2)
    net.conv("conv", 1, norm="bn")
    state = {
        "conv.weight": [1, 1, -1],
        "bn.weight": [6],
        "bn.bias": [1],
        "bn.running_mean": [3],
        "bn.running_var": [4 - 1e-5],
    }
    # The pixel itself; less 3, over 2, by 6, and 1.
    np.testing.assert_allclose(
        outputs_of(net.network("x"), state, image(2)), [[[[-5, -2], [1, 4]]]], rtol=1e-5
    )


def test_a_3x3_kernel_pads_one_zero_on_each_side_and_strides_from_the_corner():
    net = NetworkBuilder(4)
    net.conv("conv", 1, kernel=3, stride=2)
    state = {"conv.weight": [1] * 9 + [0] * 18, "conv.bias": [0.5]}
    # Sums of the 3x3 around pixels (0, 0), (0, 2), (2, 0) and (2, 2) of 1..16.
    expected = [
        [1 + 2 + 5 + 6, 2 + 3 + 4 + 6 + 7 + 8],
        [5 + 6 + 9 + 10 + 13 + 14, 6 + 7 + 8 + 10 + 11 + 12 + 14 + 15 + 16],
    ]
    np.testing.assert_allclose(outputs_of(net.network("x"), state, image(4)), [[np.array(expected) + 0.5]])


def test_groups_keep_channels_apart():
    net = NetworkBuilder(1)
    net.conv("conv", 3, groups=3)
    state = {"conv.weight": [1, 10, 100], "conv.bias": [0, 0, 7]}
    assert outputs_of(net.network("x"), state, image(1)).ravel().tolist() == [1, 10, 107]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("relu", [0, 0, 2, 8]),
        ("relu6", [0, 0, 2, 6]),
        ("sigmoid", [0.119203, 0.5, 0.880797, 0.999665]),
        ("silu", [-0.238406, 0, 1.761594, 7.997317]),
    ],
)
def test_activations_match_a_hand_computation(kind, expected):
    net = NetworkBuilder(2)
    net.activation(kind)
    values = np.broadcast_to(np.array([[-2, 0], [2, 8]], np.float32), (1, 3, 2, 2))
    np.testing.assert_allclose(
        outputs_of(net.network("x"), {}, values.copy())[0, 0].ravel(), expected, atol=1e-6
    )


def test_pools_sums_and_channel_scales_match_a_hand_computation():
    net = NetworkBuilder(4)
    net.max_pool("max", kernel=3, stride=2)
    assert outputs_of(net.network("x"), {}, image(4))[0, 0].tolist() == [[6, 8], [14, 16]]
    net.add("sum", "max", "max")
    assert outputs_of(net.network("x"), {}, image(4))[0, 0].tolist() == [[12, 16], [28, 32]]
    net.global_average_pool("mean")
    assert outputs_of(net.network("x"), {}, image(4)).ravel().tolist() == [22, 22, 22]
    net.channel_scale("scaled", "max", "mean")
    assert outputs_of(net.network("x"), {}, image(4))[0, 2].tolist() == [[132, 176], [308, 352]]


def test_a_linear_layer_matches_a_hand_computation():
    net = NetworkBuilder(1)
    net.linear("head", 2)
    state = {"head.weight": [1, 2, 3, 0, -1, 0], "head.bias": [10, 20]}
    assert outputs_of(net.network("x"), state, image(1)).tolist() == [[16, 19]]


@pytest.mark.parametrize(
    "network",
    [
        resnet(18, replace(BASE, side_px=33)),
        mobilenet_v2(replace(BASE, side_px=33)),
        efficientnet(Scale(width=1, depth=1, side_px=33)),
    ],
    ids=lambda network: network.family,
)
def test_onnx_runtime_and_torch_agree_on_every_family(network):
    weights = random_weights(network)
    info = ModelInfo(
        family=network.family,
        phi=None,
        rule=None,
        precision="fp32",
        preprocessing=Preprocessing(side_px=network.side_px),
        weights="random",
    )
    difference = difference_from_torch(to_bytes(build_onnx_model(network, weights, info)), network, weights)
    assert difference.relative < 1e-4


def test_an_unknown_kind_of_layer_is_an_error():
    stranger = Layer(name="stranger", block="", inputs=("input",), output=(3, 2, 2))
    network = Network(family="x", input=(3, 2, 2), layers=(stranger,))
    with pytest.raises(NotImplementedError, match="Layer"):
        NetworkModule(network)(torch.zeros(1, 3, 2, 2))
