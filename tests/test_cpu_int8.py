"""The CPU's INT8 graph computes what the canonical one does, in integers, and saturates on no CPU."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deploykit.engine.accumulators import fit_weight
from deploykit.engine.cpu_int8 import respell_for_cpu, unsigned
from deploykit.engine.inline_constants import inline_constants
from deploykit.engine.onnxruntime import audit_kernels, prepare_artifact
from deploykit.metrics import sqnr_db
from deploykit.model_file import read_model, to_bytes
from deploykit.sessions import cpu_session

SIDE_PX = 6
# Steps in hand-made graphs are powers of two, so that float sums are exact and round alike in any order.
STEP = np.float32(2.0**-4)  # of activations

# ---------------------------------------------------------------- graphs by hand


def constants_of(model) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def graph_of(nodes, constants, *, y: list[int], x: list[int]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *x])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", *y])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def activation_pair(name: str) -> list:
    return [
        helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", "step", "zero"], [f"{name}_dq"]),
    ]


def weight_pair(name: str, *, axis: int = 0) -> list:
    reads = [f"{name}_values", f"{name}_scales", f"{name}_zeros"]
    return [helper.make_node("DequantizeLinear", reads, [name], axis=axis)]


def weight_constants(name: str, values: np.ndarray, *, axis: int = 0) -> dict[str, np.ndarray]:
    channels = values.shape[axis]
    return {
        f"{name}_values": values.astype(np.int8),
        f"{name}_scales": 2.0 ** -(6 + np.arange(channels, dtype=np.float32) % 4),
        f"{name}_zeros": np.zeros(channels, np.int8),
    }


SHARED = {"step": STEP, "zero": np.int8(0)}


def convolution(values: np.ndarray, *, bias: np.ndarray | None = None, **attributes) -> onnx.ModelProto:
    """A symmetric Q/DQ convolution of x by int8 values (outputs, inputs, height, width)."""
    constants = SHARED | weight_constants("w", values) | ({} if bias is None else {"b": bias})
    reads = ["x_dq", "w", *([] if bias is None else ["b"])]
    nodes = [*activation_pair("x"), *weight_pair("w"), helper.make_node("Conv", reads, ["y"], **attributes)]
    side = SIDE_PX + 2 * attributes.get("pads", [0])[0] - (values.shape[2] - 1)
    side = -(-side // attributes.get("strides", [1])[0])
    inputs = values.shape[1] * attributes.get("group", 1)
    return graph_of(nodes, constants, x=[inputs, SIDE_PX, SIDE_PX], y=[len(values), side, side])


def linear(values: np.ndarray, *, op: str = "Gemm", transposed: int = 1) -> onnx.ModelProto:
    """A symmetric Q/DQ linear layer of x by int8 values (outputs, inputs)."""
    stored, axis = (values, 0) if transposed else (values.T, 1)
    constants = SHARED | weight_constants("w", stored, axis=axis)
    attributes = {"transB": transposed} if op == "Gemm" else {}
    nodes = [
        *activation_pair("x"),
        *weight_pair("w", axis=axis),
        helper.make_node(op, ["x_dq", "w"], ["y"], **attributes),
    ]
    return graph_of(nodes, constants, x=[values.shape[1]], y=[len(values)])


def extremes(outputs: int, inputs: int) -> np.ndarray:
    """The weights that saturate most: one sign, signs by turns, signs at random, and one value anywhere."""
    generator = np.random.default_rng(0)
    values = generator.choice([-127, 127], (outputs, inputs))
    values[0], values[1], values[2] = 127, -127, np.resize([127, -127], inputs)
    values[3:] = np.where(generator.random(values[3:].shape) < 0.5, values[3:], generator.integers(-127, 128))
    return values


def quiet(*shape: int) -> np.ndarray:
    """Weights of which no two add to more than 128: they needn't change."""
    return np.random.default_rng(1).integers(-64, 65, shape)


def images(model, *, count: int = 3) -> np.ndarray:
    """Activations of which half are at an end of their range, and some beyond."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    generator = np.random.default_rng(2)
    x = generator.uniform(-130, 130, (count, *shape)) * STEP
    x = np.where(generator.random(x.shape) < 0.5, np.sign(x) * 127 * STEP, x)
    x[0] = 127 * STEP
    return x.astype(np.float32)


def outputs(model, x: np.ndarray, *, fuse_int8: bool) -> np.ndarray:
    session = cpu_session(to_bytes(model), fuse_int8=fuse_int8, threads=1)
    return session.run(None, {model.graph.input[0].name: x})[0]


def exactly(model, x: np.ndarray) -> np.ndarray:
    """What a respelled graph of one product says, in exact integer arithmetic."""
    constants = constants_of(model)
    makers = {node.output[0]: node for node in model.graph.node}
    (quantize,) = (node for node in model.graph.node if node.op_type == "QuantizeLinear")
    (product,) = (node for node in model.graph.node if node.op_type == "Gemm")
    step, zero = (constants[name] for name in quantize.input[1:])
    assert zero.dtype == np.uint8
    rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    integers = np.clip(np.rint(rows / step) + int(zero), 0, 255).astype(np.int64) - int(zero)
    weight, bias = (constants[makers[name].input[0]].astype(np.int64) for name in product.input[1:])
    scales = constants[makers[product.input[1]].input[1]].astype(np.float64)
    y = (integers @ weight + bias) * (np.float64(step) * scales)
    return np.moveaxis(y.reshape(x.shape[0], *x.shape[2:], -1), -1, 1)


# ---------------------------------------------------------------- saturation

WORST = {
    "convolution": lambda: convolution(
        extremes(8, 64)[:, :, None, None], bias=np.arange(-9, 7, 2, dtype="f4")
    ),
    "odd number of inputs": lambda: convolution(extremes(8, 33)[:, :, None, None]),
    "two inputs": lambda: convolution(extremes(8, 2)[:, :, None, None]),
    "linear layer": lambda: linear(extremes(16, 200)),
    "linear layer, stored the other way round": lambda: linear(extremes(16, 200), transposed=0),
    "linear layer as MatMul": lambda: linear(extremes(16, 200), op="MatMul", transposed=0),
}


@pytest.mark.parametrize("case", WORST)
def test_the_worst_weights_and_activations_give_what_exact_integers_give(case):
    respelled = respell_for_cpu(WORST[case]())
    onnx.checker.check_model(respelled, full_check=True)
    assert audit_kernels(to_bytes(respelled)).int8 == 1
    x = images(respelled)
    expected = exactly(respelled, x)
    assert np.allclose(outputs(respelled, x, fuse_int8=True), expected, rtol=1e-5, atol=1e-6)
    assert np.allclose(outputs(respelled, x, fuse_int8=False), expected, rtol=1e-4, atol=1e-4)


RUN_FOLDER = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 4, 1
for path in Path(sys.argv[1]).glob("*.onnx"):
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: np.load(path.with_suffix(".x.npy"))})
    np.save(path.with_suffix(".y.npy"), y)
"""


def without_vnni(cases: dict[str, tuple[onnx.ModelProto, np.ndarray]], folder: Path) -> dict[str, np.ndarray]:
    """Fused outputs as an emulated Haswell computes them, which has AVX2 and no VNNI."""
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        pytest.skip("needs qemu-x86_64 to be a CPU without VNNI: apt-get install qemu-user")
    for name, (model, x) in cases.items():
        (folder / f"{name}.onnx").write_bytes(to_bytes(model))
        np.save(folder / f"{name}.x.npy", x)
    command = [emulator, "-cpu", "Haswell", sys.executable, "-c", RUN_FOLDER, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return {name: np.load(folder / f"{name}.y.npy") for name in cases}


def plain_product() -> onnx.ModelProto:
    """Q/DQ in int8 around a matrix product, as any quantizer writes it."""
    values = extremes(16, 200)
    model = linear(values)
    bias = {
        "b_values": np.zeros(16, np.int32),
        "b_scales": STEP * constants_of(model)["w_scales"],
        "b_zeros": np.zeros(16, np.int32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in bias.items())
    product = model.graph.node.pop()
    product.input.append("b")
    model.graph.node.extend([*weight_pair("b"), product])
    return model


@pytest.mark.skipif(sys.platform != "linux", reason="qemu's user emulation is Linux's")
def test_without_vnni_the_worst_weights_saturate_as_they_are_and_not_once_they_are_respelled(tmp_path):
    respelled = {name: respell_for_cpu(make()) for name, make in WORST.items()}
    cases = {name: (model, images(model)) for name, model in respelled.items()}
    plain = plain_product()
    assert audit_kernels(to_bytes(plain)).int8 == 1
    x = images(plain)
    computed = without_vnni(cases | {"plain": (plain, x)}, tmp_path)
    for name, (model, each) in cases.items():
        assert np.allclose(computed[name], exactly(model, each), rtol=1e-5, atol=1e-6), name
    # Else this CPU is not what the test is about.
    assert sqnr_db(computed["plain"], outputs(plain, x, fuse_int8=False)) < 20


int8s = st.integers(-127, 127)


@given(st.lists(st.tuples(int8s, int8s), min_size=1, max_size=6), st.booleans())
def test_no_pair_of_products_leaves_16_bits_whatever_the_activations(pairs, odd):
    column = np.array(pairs).reshape(-1, 1)[: -1 if odd else None]
    values, scales = fit_weight(
        column.astype(np.int8), np.ones(1, np.float32), bias=np.zeros(1), activation_step=1.0
    )
    even = np.pad(values[:, 0].astype(int), (0, len(values) % 2)).reshape(-1, 2)
    for first in (0, 255):
        for second in (0, 255):
            sums = even @ [first, second]
            assert (np.abs(sums) <= 32767).all()
    # Half a step is what rounding costs; a step grows to twice its size at most, but for rounding.
    assert (np.abs(values * np.float64(scales) - column) <= scales / 2 + 1e-4).all()
    assert 1 <= scales[0] <= 2 * 127 / 127 + 1e-6


@pytest.mark.parametrize(
    "column",
    [[64, 64], [127, 1], [1, 127], [127, -127], [-127, 127, -1], [127], [0, 0], [-100, -28, 100, 28]],
)
def test_weights_that_fit_16_bits_stay_as_they_are(column):
    values = np.array(column, np.int8).reshape(-1, 1)
    scale = np.array([0.3], np.float32)
    fitted = fit_weight(values, scale, bias=np.zeros(1), activation_step=0.1)
    assert (fitted[0] == values).all()
    assert fitted[1] == scale


def test_only_channels_that_could_saturate_get_coarser_steps():
    values = np.array([[127, 127], [1, 127]], np.int8)
    fitted, scales = fit_weight(values, np.ones(2, np.float32), bias=np.zeros(2), activation_step=1.0)
    assert fitted[:, 0].tolist() == [127, 1]
    assert scales[0] == 1
    assert scales[1] == pytest.approx(254 / 128, rel=1e-4)
    assert fitted[:, 1].tolist() == [64, 64]


def test_a_bias_far_larger_than_its_channels_weights_still_fits_32_bits():
    # Steps as small as FP16 has them, 2^-24, and activations' of 2^-10: a bias of 5 is 8.6e10 of both.
    model = convolution(np.zeros((2, 4, 1, 1)), bias=np.array([5, -3], np.float32))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    tiny = numpy_helper.from_array(np.full(2, 2.0**-24, np.float32), "w_scales")
    constants["w_scales"].CopyFrom(tiny)
    constants["step"].CopyFrom(numpy_helper.from_array(np.float32(2.0**-10), "step"))
    respelled = respell_for_cpu(model)
    y = outputs(respelled, images(respelled), fuse_int8=True)
    assert np.allclose(y[:, 0], 5)
    assert np.allclose(y[:, 1], -3)


# ---------------------------------------------------------------- the same numbers


def same_numbers(model, *, x: np.ndarray | None = None) -> bool:
    """Whether the respelled graph gives what the canonical one gives, with and without integer kernels."""
    x = images(model) if x is None else x
    respelled = respell_for_cpu(model)
    onnx.checker.check_model(respelled, full_check=True)
    expected = outputs(model, x, fuse_int8=False)
    near = 1e-5 * np.abs(expected).max()
    return all(
        np.allclose(outputs(respelled, x, fuse_int8=fused), expected, atol=near) for fused in (True, False)
    )


@pytest.mark.parametrize("bias", [None, np.arange(-2, 6, dtype=np.float32)], ids=["no bias", "bias"])
def test_a_convolution_whose_weights_fit_gives_the_same_numbers(bias):
    assert same_numbers(convolution(quiet(8, 16, 1, 1), bias=bias))


@pytest.mark.parametrize(("op", "transposed"), [("Gemm", 1), ("Gemm", 0), ("MatMul", 0)])
def test_a_linear_layer_whose_weights_fit_gives_the_same_numbers(op, transposed):
    assert same_numbers(linear(quiet(8, 30), op=op, transposed=transposed))


@pytest.mark.parametrize(
    "attributes",
    [{"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}, {"group": 2}],
    ids=["strides", "padding", "groups"],
)
def test_what_is_more_than_a_matrix_product_keeps_its_numbers(attributes):
    assert same_numbers(convolution(extremes(8, 16)[:, :, None, None], **attributes))


@pytest.mark.parametrize("pads", [0, 1])
def test_a_3x3_convolution_keeps_its_numbers_in_uint8(pads):
    model = convolution(extremes(8, 16 * 9).reshape(8, 16, 3, 3), pads=[pads] * 4)
    assert same_numbers(model)
    constants = constants_of(respell_for_cpu(model))
    assert not [name for name, array in constants.items() if array.dtype == np.int8]


def network(middle, *, y: list[int], constants=None) -> onnx.ModelProto:
    """x -> convolution `a`, whose output is `h` -> the nodes of `middle` -> y."""
    constants = SHARED | weight_constants("a", quiet(8, 8, 1, 1)) | (constants or {})
    nodes = [
        *activation_pair("x"),
        *weight_pair("a"),
        helper.make_node("Conv", ["x_dq", "a"], ["h"]),
        *middle,
    ]
    return graph_of(nodes, constants, x=[8, SIDE_PX, SIDE_PX], y=y)


def node(op: str, *reads: str, makes: str = "y", **attributes):
    return helper.make_node(op, list(reads), [makes], **attributes)


MAP = [8, SIDE_PX, SIDE_PX]
SECOND = [*activation_pair("s"), *weight_pair("b"), node("Conv", "s_dq", "b")]
B = weight_constants("b", quiet(8, 8, 1, 1))
AROUND = {
    "swish": ([node("Sigmoid", "h", makes="g"), node("Mul", "h", "g")], {}),
    "a sum with a map that is channels first": ([node("Add", "h", "x")], {}),
    "a residual sum between two products": ([node("Add", "h", "h", makes="s"), *SECOND], B),
    "clipping to constants": (
        [node("Clip", "h", "low", "high")],
        {"low": np.float32(0), "high": np.float32(1)},
    ),
    "clipping without a lower end": ([node("Clip", "h", "", "high")], {"high": np.float32(1)}),
    "a factor for each channel": ([node("Mul", "h", "f")], {"f": np.arange(8, dtype="f4").reshape(8, 1, 1)}),
    "a number": ([node("Mul", "h", "f")], {"f": np.full((1, 1, 1), 3, np.float32)}),
    "an output that is read on": ([node("Relu", "h"), node("Relu", "y", makes="unread")], {}),
    "a pooling": ([node("GlobalAveragePool", "h", makes="p"), node("Mul", "h", "p")], {}),
    "a product of what a pooling made": (
        [node("MaxPool", "h", makes="s", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), *SECOND],
        B,
    ),
    "two products of one tensor": (
        [*weight_pair("b"), node("Conv", "x_dq", "b", makes="k"), node("Sub", "h", "k")],
        B,
    ),
    "two products of one tensor in different steps": (
        [
            node("QuantizeLinear", "x", "wide", "zero", makes="x_wide_q"),
            node("DequantizeLinear", "x_wide_q", "wide", "zero", makes="x_wide"),
            *weight_pair("b"),
            node("Conv", "x_wide", "b", makes="k"),
            node("Sub", "h", "k"),
        ],
        B | {"wide": 4 * STEP},
    ),
    "two products of one weight": (
        [*activation_pair("h"), node("Conv", "h_dq", "a")],
        {},
    ),
    "a product and another reader of what is quantized": (
        [*weight_pair("b"), node("Conv", "x_dq", "b", makes="k"), node("Add", "k", "x_dq")],
        B,
    ),
}


@pytest.mark.parametrize("case", AROUND)
def test_what_stands_around_products_gives_the_same_numbers(case):
    middle, constants = AROUND[case]
    assert same_numbers(network(middle, y=MAP, constants=constants))


def test_maps_stay_channels_last_through_activation_and_sum_until_a_convolution_reads_them():
    depthwise = node("Conv", "r", "d", group=8, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    middle = [node("Add", "h", "h", makes="s"), node("Relu", "s", makes="r"), depthwise]
    respelled = respell_for_cpu(network(middle, y=MAP, constants={"d": np.ones((8, 1, 3, 3), np.float32)}))
    assert [each.op_type for each in respelled.graph.node if each.op_type not in ("Reshape", "Gemm")] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "Transpose",
        "DequantizeLinear",
        "DequantizeLinear",
        "Add",
        "Relu",
        "Transpose",
        "Conv",
    ]


def centred(centre: float, values: np.ndarray) -> onnx.ModelProto:
    """The product of x, known to be around the centre, written as quantize.qdq writes it."""
    scales = weight_constants("w", values)["w_scales"]
    shift = centre * scales * values.reshape(len(values), -1).sum(axis=1)
    model = convolution(values, bias=shift.astype(np.float32))
    nodes = [node("Add", "x", "c", makes="x_c"), *activation_pair("x_c")]
    nodes += [
        each for each in model.graph.node if each.op_type != "QuantizeLinear" and each.output[0] != "x_dq"
    ]
    nodes[-1].input[0] = "x_c_dq"
    constants = constants_of(model) | {"c": np.float32(-centre)}
    return graph_of(
        nodes, constants, x=[values.shape[1], SIDE_PX, SIDE_PX], y=[len(values), SIDE_PX, SIDE_PX]
    )


def test_a_centre_becomes_the_zero_point():
    centre = 100 * float(STEP)
    model = centred(centre, quiet(8, 16, 1, 1))
    respelled = respell_for_cpu(model)
    (quantize,) = (each for each in respelled.graph.node if each.op_type == "QuantizeLinear")
    assert constants_of(respelled)[quantize.input[2]] == 28
    assert "Add" not in Counter(each.op_type for each in respelled.graph.node)
    # Away from the ends of the range, where the two roundings of the centre differ.
    x = centre + np.clip(images(model), -120 * STEP, 120 * STEP)
    x = (np.rint(x / STEP) * STEP).astype(np.float32)
    assert same_numbers(model, x=x)


def test_coarser_weights_don_t_shift_what_a_centred_activation_contributes():
    """Its centre is far from where its values are: what the weights' rounding does to it would be a bias."""
    centre = 60.0
    values = np.random.default_rng(3).normal(0, 35, (8, 256, 1, 1)).clip(-127, 127).round()
    model = centred(centre * float(STEP), values)
    x = np.abs(np.random.default_rng(4).normal(0, 4 * STEP, (4, 256, SIDE_PX, SIDE_PX))).astype(np.float32)
    expected = outputs(model, x, fuse_int8=False)
    assert sqnr_db(outputs(respell_for_cpu(model), x, fuse_int8=False), expected) > 30


@pytest.mark.parametrize(
    ("step", "offset", "expected"),
    [
        (1.0, 0.0, (1.0, 128)),
        (0.5, -50.0, (0.5, 28)),
        (0.5, 63.5, (0.5, 255)),
        (0.5, -64.0, (0.5, 0)),
        # int8 holds 20 - 12.8 .. 20 + 12.7; with zero that is 0 .. 32.7.
        (0.1, -20.0, (32.7 / 255, 0)),
        (0.1, 20.0, (32.8 / 255, 255)),
    ],
)
def test_uint8_holds_what_int8_held_and_zero(step, offset, expected):
    found_step, zero_point = unsigned(step, offset)
    assert (pytest.approx(found_step), zero_point) == expected


def test_constants_behind_nodes_are_found():
    """As torch's exporters leave them: a bias that two layers share, and the ends of Clip."""
    model = convolution(quiet(8, 16, 1, 1), bias=np.arange(-3, 5, dtype=np.float32))
    product = model.graph.node.pop()
    product.input[2], product.output[0] = "same", "h"
    high = numpy_helper.from_array(np.float32(0.5))
    model.graph.node.insert(0, node("Identity", "b", makes="same"))
    model.graph.node.extend(
        [product, node("Constant", makes="high", value=high), node("Clip", "h", "", "high")]
    )
    assert same_numbers(model)
    kinds = Counter(each.op_type for each in respell_for_cpu(model).graph.node)
    assert kinds["Gemm"] == 1
    assert not kinds.keys() & {"Conv", "Constant", "Identity"}


def test_a_bias_that_is_computed_leaves_the_product_as_it_is():
    model = convolution(quiet(8, 16, 1, 1), bias=np.arange(-3, 5, dtype=np.float32))
    model.graph.node[-1].input[2] = "twice"
    model.graph.node.insert(0, node("Add", "b", "b", makes="twice"))
    assert same_numbers(model)


def test_a_constant_that_is_an_output_stays_one():
    model = graph_of([node("Identity", "c")], {"c": np.ones((1, 2), np.float32)}, x=[1], y=[2])
    assert to_bytes(inline_constants(model)) == to_bytes(model)


def test_the_model_that_is_given_stays_as_it_is():
    model = network(*[AROUND["two products of one tensor"][0]], y=MAP, constants=B)
    before = to_bytes(model)
    respell_for_cpu(model)
    assert to_bytes(model) == before


# ---------------------------------------------------------------- a trained network


@pytest.fixture(scope="module")
def canonical(shared, trained):
    """The trained B0 with plain Q/DQ pairs."""
    from deploykit.images.source import open_images
    from deploykit.quantize.calibration import Settings, calibrate
    from deploykit.quantize.methods import method_called
    from deploykit.quantize.placement import place
    from deploykit.quantize.qdq import insert_qdq

    data = open_images(shared / "cifar10_calib.npz", trained.info.preprocessing, limit=16)
    ranges = calibrate(trained.path, data, Settings(method=method_called("percentile")))
    model = read_model(trained.path)
    return insert_qdq(model, place(model, "pointwise"), ranges)


@pytest.fixture(scope="module")
def artifact(canonical):
    return respell_for_cpu(canonical)


def test_the_artifact_is_as_accurate_as_plain_q_dq(trained, canonical, artifact, validation):
    x = trained.info.preprocessing.normalize(validation.pixels[:200])
    reference = outputs(read_model(trained.path), x, fuse_int8=False)
    plain = sqnr_db(outputs(canonical, x, fuse_int8=False), reference)
    assert sqnr_db(outputs(artifact, x, fuse_int8=True), reference) > plain - 1
    assert plain > 25


def test_the_artifacts_integer_kernels_compute_what_its_q_dq_says(trained, artifact, validation):
    x = trained.info.preprocessing.normalize(validation.pixels[:100])
    fused, unfused = (outputs(artifact, x, fuse_int8=each) for each in (True, False))
    # Sums in another order turn a few roundings.
    assert sqnr_db(fused, unfused) > 38


def test_without_vnni_a_trained_network_computes_the_same(trained, artifact, validation, tmp_path):
    x = trained.info.preprocessing.normalize(validation.pixels[:4])
    computed = without_vnni({"artifact": (artifact, x)}, tmp_path)["artifact"]
    assert sqnr_db(computed, outputs(artifact, x, fuse_int8=False)) > 38


def test_every_planned_product_runs_in_integers(artifact):
    audit = prepare_artifact(artifact).audit
    assert (audit.int8, audit.fp16, audit.fp32) == (33, 0, 49)


def test_plain_q_dq_runs_in_float_almost_everywhere(canonical):
    """Documents ONNX Runtime 1.31: with integer convolutions that write floats, this graph would do."""
    assert audit_kernels(to_bytes(canonical)).int8 < 5


def test_a_float_model_has_no_integers(random_b0):
    audit = prepare_artifact(read_model(random_b0.path)).audit
    assert (audit.int8, audit.fp16, audit.fp32) == (0, 0, 82)
    assert audit.summary().endswith("(ONNX Runtime's optimized graph)")


def test_a_block_transposes_twice(artifact):
    kinds = Counter(each.op_type for each in artifact.graph.node)
    assert kinds["Transpose"] == 2 * 16  # before each block's depthwise convolution, and behind
