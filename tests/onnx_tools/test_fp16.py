import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.networks.export import prepare_export
from deploykit.networks.member import choose_member
from deploykit.networks.model_info import read_model_info
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.fp16 import to_fp16
from deploykit.onnx_tools.model_io import keep_in_fp32, read_model, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.stats.accuracy_metrics import agreement, sqnr_db
from deploykit.util.errors import DeployError


@pytest.fixture(scope="module")
def fp32(trained) -> onnx.ModelProto:
    return read_model(trained.path)


@pytest.fixture(scope="module")
def fp16(fp32) -> onnx.ModelProto:
    return to_fp16(fp32)


def one_convolution(weight: float) -> onnx.ModelProto:
    """Multiplies the first channel by weight."""
    values = np.zeros((1, 3, 1, 1), np.float32)
    values[0, 0] = weight
    return model_of([helper.make_node("Conv", ["input", "w"], ["logits"])], {"w": values})


def model_of(nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_the_logits_hardly_change(fp32, fp16, trained, validation):
    images = trained.info.preprocessing.normalize(validation.pixels[:64])
    (reference,) = cpu_session(to_bytes(fp32)).run(None, {"input": images})
    (logits,) = cpu_session(to_bytes(fp16)).run(None, {"input": images})
    assert logits.dtype == np.float32
    # FP16 rounds by 2^-12 on average, -72 dB; some eighty layers in a row may add 20 dB.
    assert 50 < sqnr_db(logits, reference) < 90
    assert agreement(logits, reference) >= 63 / 64


def test_it_computes_in_fp16_between_a_float32_input_and_output(fp16):
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*fp16.graph.input, *fp16.graph.output)
    }
    assert types == {"input": TensorProto.FLOAT, "logits": TensorProto.FLOAT}
    assert {tensor.data_type for tensor in fp16.graph.initializer} == {TensorProto.FLOAT16}
    assert sum(node.op_type == "Cast" for node in fp16.graph.node) == 2


def test_every_node_stands_after_what_it_reads(fp16):
    onnx.checker.check_model(fp16, full_check=True)
    known = {"input", *(tensor.name for tensor in fp16.graph.initializer)}
    for node in fp16.graph.node:
        assert known.issuperset(node.input)
        known.update(node.output)


def test_names_and_metadata_are_kept_and_the_original_is_left_alone(fp32, fp16, trained):
    kept = [node.name for node in fp16.graph.node if node.op_type != "Cast"]
    assert kept == [node.name for node in fp32.graph.node]
    assert read_model_info(fp16) == trained.info
    assert to_bytes(fp32) == trained.path.read_bytes()


# IEEE 754 binary16's largest number is 65504.
@pytest.mark.parametrize("weight", [65504, -65504])
def test_the_largest_weight_that_fp16_holds_is_taken(weight):
    half = to_fp16(one_convolution(weight))
    assert numpy_helper.to_array(half.graph.initializer[0])[0, 0].item() == weight
    images = np.full((1, 3, 2, 2), 0.5, np.float32)
    assert cpu_session(to_bytes(half)).run(None, {"input": images})[0].ravel().tolist() == [weight / 2] * 4


@pytest.mark.parametrize("weight", [65536, -1e6, np.inf])
def test_a_weight_beyond_fp16_is_refused_by_name(weight):
    with pytest.raises(DeployError, match=r"w holds a weight of \S+, beyond FP16's 65504") as caught:
        to_fp16(one_convolution(weight))
    assert "--fp32" in caught.value.fix


def test_a_tiny_weight_stays_tiny():
    half = to_fp16(one_convolution(1e-9))
    assert 0 <= numpy_helper.to_array(half.graph.initializer[0])[0, 0].item() <= 2.0**-24


def test_qdq_pairs_stay_with_their_scales_in_fp16():
    model = model_of(
        [
            helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
            helper.make_node("Conv", ["dq", "w"], ["logits"]),
        ],
        {
            "scale": np.array(0.5, np.float32),
            "zero": np.array(0, np.int8),
            "w": np.ones((1, 3, 1, 1), np.float32),
        },
    )
    half = to_fp16(model)
    onnx.checker.check_model(half, full_check=True)
    ops = [node.op_type for node in half.graph.node]
    assert ops == ["Cast", "QuantizeLinear", "DequantizeLinear", "Conv", "Cast"]
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert types == {"scale": TensorProto.FLOAT16, "zero": TensorProto.INT8, "w": TensorProto.FLOAT16}
    # 0.7 rounds to 0.5, three times; 100 saturates at 127 * 0.5.
    images = np.array([0.7, -0.7, 100, 0], np.float32).reshape(1, 1, 2, 2).repeat(3, axis=1)
    (sums,) = cpu_session(to_bytes(half), fuse_int8=False).run(None, {"input": images})
    assert sums.ravel().tolist() == [1.5, -1.5, 190.5, 0]


def test_what_needs_fp32_keeps_it_and_reads_the_rest_from_fp16():
    model = build_onnx_model(
        *prepare_export(choose_member("efficientdet", phi=0, side_px=768), num_classes=1)
    )
    converted = to_fp16(model)
    onnx.checker.check_model(converted, full_check=True)
    assert [value.name for value in converted.graph.output] == ["boxes", "scores"]
    images = np.random.default_rng(0).standard_normal((1, 3, 768, 768), np.float32)
    exact, given = (
        cpu_session(to_bytes(each)).run(["boxes"], {"input": images})[0] for each in (model, converted)
    )
    rounded = exact.astype(np.float16).astype(np.float32)  # as an FP16 engine would give them at best
    assert np.abs(given - exact).mean() < np.abs(rounded - exact).mean() / 5


def test_fp32_nodes_and_others_may_read_one_constant():
    nodes = [
        helper.make_node("Mul", ["input", "two"], ["double"], name="double"),
        keep_in_fp32(helper.make_node("Mul", ["double", "two"], ["kept"], name="kept")),
        helper.make_node("ReduceMean", ["kept", "axis"], ["logits"], name="after", keepdims=1),
    ]
    arrays = {"two": np.array(2, np.float32), "axis": np.array([1], np.int64)}
    converted = to_fp16(model_of(nodes, arrays))
    images = np.full((1, 3, 2, 2), 1 + 2**-10, np.float32)
    (given,) = cpu_session(to_bytes(converted)).run(None, {"input": images})
    np.testing.assert_array_equal(given, np.full((1, 1, 2, 2), 4 * (1 + 2**-10), np.float32))
    kinds = {each.name: each.data_type for each in converted.graph.initializer}
    assert kinds["two"] == TensorProto.FLOAT16
    assert kinds["two.fp32"] == TensorProto.FLOAT
