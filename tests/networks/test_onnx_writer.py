import hashlib
import math
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest

from deploykit.data.preprocessing import Preprocessing
from deploykit.networks.architecture.builder import NetworkBuilder
from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.export import prepare_export
from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.model_info import ModelInfo
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.networks.scaling import scale_for
from deploykit.networks.weight_folding import fold_batch_norm
from deploykit.onnx_tools.model_io import to_bytes

INFO = ModelInfo(
    family="efficientnet",
    phi=0,
    rule="published",
    precision="fp32",
    preprocessing=Preprocessing(side_px=224),
    weights="random",
)


@pytest.fixture(scope="module")
def model(random_b0) -> onnx.ModelProto:
    return onnx.load(random_b0.path)


def zeros(network: Network) -> Weights:
    return Weights(
        state={name: np.zeros(shape, np.float32) for name, shape in network.state_shapes.items()},
        origin="zeros",
    )


def without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its tensors' names, types and shapes only."""
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return model


def macs_of(model: onnx.ModelProto) -> int:
    """Counted on the graph itself: each weight of a filter is used once for each place of its output."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    weights = {tensor.name: math.prod(tensor.dims) for tensor in inferred.initializer}
    places = {
        value.name: math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim[2:])
        for value in (*inferred.value_info, *inferred.output)
    }
    return sum(
        weights[node.input[1]] * places[node.output[0]]
        for node in inferred.node
        if node.op_type in {"Conv", "Gemm"}
    )


# timm's models, counted; EfficientNet paper Table 2 has the same, rounded. Folding a batch norm turns
# its gamma and beta into one bias, so the graph has one number less for each normalized channel.
# Those channels: half of (all - trainable - 7) in keras.applications' EfficientNetB0..B7, whose
# untrained numbers are two statistics a channel, and 7 of an input normalization.
@pytest.mark.parametrize(
    ("phi", "parameters", "gmacs", "normalized_channels"),
    [
        (0, 5_288_548, 0.385815, 21_008),
        (1, 7_794_184, 0.686803, 31_024),
        (2, 9_109_994, 0.993562, 33_784),
        (3, 12_233_232, 1.827141, 43_648),
        (4, 19_341_616, 4.393771, 62_600),
        (5, 30_389_784, 10.266385, 86_368),
        (6, 43_040_704, 19.067593, 112_216),
        (7, 66_347_960, 37.745884, 155_360),
    ],
)
def test_the_graph_has_the_parameters_and_macs_of_timm(phi, parameters, gmacs, normalized_channels):
    network = efficientnet(scale_for(phi))
    model = without_data(build_onnx_model(network, zeros(network), INFO))
    held = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    assert held == parameters - normalized_channels
    assert macs_of(model) / 1e9 == pytest.approx(gmacs, abs=6e-7)
    assert macs_of(model) == network.macs


def test_the_graph_is_valid_onnx_of_opset_20_or_later(model):
    onnx.checker.check_model(model, full_check=True)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert model.opset_import[0].version >= 20


def test_the_graph_takes_any_batch_of_float32_nchw_and_gives_logits(model):
    (images,), (logits,) = model.graph.input, model.graph.output
    for value, name, shape in ((images, "input", ["batch", 3, 64, 64]), (logits, "logits", ["batch", 1000])):
        assert value.name == name
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] == shape


def test_every_node_and_constant_is_used(model):
    graph = model.graph
    assert {node.op_type for node in graph.node} == {
        "Conv", "Sigmoid", "Mul", "Add", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    made = [name for node in graph.node for name in node.output]
    held = [tensor.name for tensor in graph.initializer]
    assert set(made) | set(held) | {"input"} == read
    assert len(set(made + held)) == len(made + held)


def test_every_node_has_a_unique_name_from_the_network(model, random_b0):
    layers = [layer.name for layer in random_b0.network.layers]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert [name for name in names if name in layers] == layers


def test_the_file_contains_nothing_about_the_machine(model, random_b0):
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    text = str(without_data(stripped))
    assert "doc_string" not in text
    metadata = random_b0.info.to_metadata()
    attributes = {"kernel_shape", "strides", "pads", "group", "axis", "transB"}
    known = (
        {node.op_type for node in model.graph.node} | attributes | metadata.keys() | set(metadata.values())
    )
    known |= {"deploykit", "efficientnet", "input", "logits", "batch", ""}  # the last: ONNX's own domain
    layers = tuple(layer.name for layer in random_b0.network.layers)
    strings = {found.replace('\\"', '"') for found in re.findall(r'"((?:[^"\\]|\\.)*)"', text)}
    assert strings >= known
    assert {string for string in strings - known if not string.startswith(layers)} == set()
    # Layer names have neither slashes, as paths do, nor spaces, as stack traces do.
    assert not any(re.search(r"[/\\\s]", string) for string in strings - set(metadata.values()))
    assert not any("/" in value or "Traceback" in value for value in metadata.values())


def test_the_same_weights_give_the_same_bytes_in_any_process(tmp_path):
    program = (
        "import hashlib; from deploykit.networks.export import prepare_export;"
        "from deploykit.onnx_tools.model_io import to_bytes;"
        "from deploykit.networks.onnx_writer.writer import build_onnx_model;"
        "model = build_onnx_model(*prepare_export(0, num_classes=5, side_px=32));"
        "print(hashlib.sha256(to_bytes(model)).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.strip()
    here = to_bytes(build_onnx_model(*prepare_export(0, num_classes=5, side_px=32)))
    assert hashlib.sha256(here).hexdigest() == there


def test_a_batch_norm_folds_into_weight_and_bias():
    net = NetworkBuilder(4)
    net.conv("conv", 2, norm="bn")
    (conv,) = net.network("one").convolutions
    epsilon = 1e-5
    state = {
        "conv.weight": np.array([[1, 2, 3], [4, 5, 6]], np.float32).reshape(2, 3, 1, 1),
        "bn.weight": np.array([6, 1], np.float32),
        "bn.bias": np.array([1, 2], np.float32),
        "bn.running_mean": np.array([3, -8], np.float32),
        "bn.running_var": np.array([4 - epsilon, 16 - epsilon], np.float32),
    }
    weight, bias = fold_batch_norm(conv, state, epsilon=1e-5)
    # gamma / sqrt(variance + epsilon) is 3 and 1/4; beta - mean * that is 1 - 9 and 2 + 2.
    np.testing.assert_allclose(weight.reshape(2, 3), [[3, 6, 9], [1, 1.25, 1.5]], rtol=1e-6)
    np.testing.assert_allclose(bias, [-8, 4], rtol=1e-6)
    assert weight.dtype == bias.dtype == np.float32


def test_folding_happens_before_rounding_to_float32():
    # With mean * gamma / sqrt(variance) = 1e8 / 3 and beta as near, float32's steps of 2 would show.
    net = NetworkBuilder(4)
    net.conv("conv", 1, norm="bn")
    (conv,) = net.network("one").convolutions
    state = {
        "conv.weight": np.ones((1, 3, 1, 1), np.float32),
        "bn.weight": np.array([1], np.float32),
        "bn.bias": np.array([33_333_332], np.float32),
        "bn.running_mean": np.array([1e8], np.float32),
        "bn.running_var": np.array([9], np.float32),
    }
    _, bias = fold_batch_norm(conv, state, epsilon=1e-5)
    factor = 1 / math.sqrt(9 + 1e-5)
    assert bias[0] == pytest.approx(33_333_332 - 1e8 * factor, rel=1e-6)


def test_a_convolution_without_a_norm_keeps_its_weight_and_bias():
    net = NetworkBuilder(4)
    net.conv("conv", 2)
    (conv,) = net.network("one").convolutions
    state = {"conv.weight": np.ones((2, 3, 1, 1), np.float32), "conv.bias": np.array([1, 2], np.float32)}
    weight, bias = fold_batch_norm(conv, state, epsilon=1e-5)
    np.testing.assert_array_equal(weight, state["conv.weight"])
    np.testing.assert_array_equal(bias, [1, 2])
