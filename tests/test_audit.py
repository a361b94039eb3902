import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.engine.audit import Audit, audit_log
from deploykit.errors import DeployError

# Lines of TensorRT-RTX 1.7.1's log, of B0 for SM75 and SM89; "..." stands for what was cut from them.
INT8_GEMM = (
    "Name: logits.product_U568_myl0_146, LayerType: gemm, Inputs: [ { Name: __mye6663_q8_myl0, Dimensions: "
    "[-1,1280], Strides: [1280,1], StrideOrder: [1,0], Datatype: Int8, Format: (Linear) Row major linear "
    "format }], Constants: [ { Name: __mye7340_dconst_myl0, Dimensions: [1280,10], Strides: [1,1280], "
    "StrideOrder: [0,1], Datatype: Int8, Format: (Transposed) Transposed format }, { Name: __mye6692_myl0, "
    "Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, ... }], Outputs: [ { Name: "
    "__myln_k_arg__bb1_233_myl0, Dimensions: [-1,10], Datatype: Half, ... }], TacticName: __myelin_CASK_STUB"
)
FP16_CONVOLUTION = (
    "Name: blocks.0.0.conv_dw_U3_myl0_3, LayerType: correlation, Inputs: [ { Name: "
    "blocks.0.0.conv_dw.1_33_myl0, Dimensions: [-1,32,32,32], Strides: [32768,1,1024,32], StrideOrder: "
    "[3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: "
    "__mye16060_const_myl0, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, ... }], "
    "Outputs: [ { Name: __myln_k_arg__bb1_34_myl0, Datatype: Half, ... }], TacticName: __myelin_CASK_STUB"
)
FP32_GEMM = (
    "Name: classifier_myl0_148, LayerType: gemm, Inputs: [ { Name: global_pool.1_myl0, Dimensions: "
    "[-1,1280], Strides: [1280,1], StrideOrder: [1,0], Datatype: Float, Format: (Linear) Row major linear "
    "format }], Constants: [ { Name: __mye10133_dconst_myl0, Dimensions: [1280,16], Datatype: Float, ... }], "
    "Outputs: []"
)
KERNEL_THAT_READS_INT8 = (
    "Name: __myl_CastReplConc_myl0_1, LayerType: kgen, Inputs: [ { Name: input, Dimensions: [-1,3,64,64], "
    "Strides: [12288,4096,64,1], StrideOrder: [3,2,1,0], Datatype: Int8, Format: (Linear) Row major linear "
    "format }], Constants: [], Outputs: [ { Name: __myln_k_arg__bb1_53_myl0, Datatype: Half, ... }]"
)
WITHOUT_INPUTS = (
    "Name: __mye3551_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , "
    "StreamId: 0, Metadata: "
)
CHATTER = (
    "Total Activation Memory: 12845056 bytes",
    "Engine Layer Information:",
    "Original: 466 layers",
    "",
)


def counts(audit: Audit) -> tuple[int, int, int, int]:
    return audit.layers, audit.int8, audit.fp16, audit.fp32


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([INT8_GEMM], (1, 1, 0, 0)),
        ([FP16_CONVOLUTION], (1, 0, 1, 0)),
        ([FP32_GEMM], (1, 0, 0, 1)),
        ([KERNEL_THAT_READS_INT8], (1, 0, 0, 0)),
        ([WITHOUT_INPUTS], (1, 0, 0, 0)),
        (CHATTER, (0, 0, 0, 0)),
        ([], (0, 0, 0, 0)),
        ([*CHATTER, INT8_GEMM, FP16_CONVOLUTION, INT8_GEMM, WITHOUT_INPUTS], (4, 2, 1, 0)),
    ],
    ids=[
        "int8 gemm",
        "fp16 convolution",
        "fp32 gemm",
        "kernel",
        "no inputs",
        "chatter",
        "nothing",
        "several",
    ],
)
def test_layers_are_counted_by_the_type_of_what_they_read(lines, expected):
    assert counts(audit_log(lines)) == expected


def real_log(*, quantized: bool) -> list[str]:
    """What the builder says of one 1x1 convolution and one linear layer, compiled for SM89."""
    import tensorrt_rtx as trt

    lines: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity, message):
            lines.extend(message.splitlines())

    log = Logger()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log).parse(two_products(quantized=quantized))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None
    return lines


def two_products(*, quantized: bool) -> bytes:
    generator = np.random.default_rng(0)
    constants = {
        "w": generator.standard_normal((64, 64, 1, 1)).astype(np.float16),
        "v": generator.standard_normal((64, 64)).astype(np.float16),
        "step": np.float16(0.02),
        "zero": np.int8(0),
    }

    def as_int8(name: str) -> list:
        return [
            helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}.q"]),
            helper.make_node("DequantizeLinear", [f"{name}.q", "step", "zero"], [f"{name}.dq"]),
        ]

    names = {name: f"{name}.dq" if quantized else name for name in ("x", "w", "p", "v")}
    pairs = {name: as_int8(name) if quantized else [] for name in names}
    nodes = [
        *pairs["x"],
        *pairs["w"],
        helper.make_node("Conv", [names["x"], names["w"]], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["p"]),
        *pairs["p"],
        *pairs["v"],
        helper.make_node("MatMul", [names["p"], names["v"]], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [4, 64, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [4, 64])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def test_a_real_log_of_an_int8_build_shows_both_products():
    audit = audit_log(real_log(quantized=True))
    assert (audit.int8, audit.fp16, audit.fp32) == (2, 0, 0)
    assert audit.layers > 2


def test_a_real_log_of_an_fp16_build_shows_no_int8():
    audit = audit_log(real_log(quantized=False))
    assert (audit.int8, audit.fp32) == (0, 0)
    assert 1 <= audit.fp16 <= 2  # a product that is fused with its neighbours is a layer of another type


def audit_of(int8: int = 0, fp16: int = 0, fp32: int = 0) -> Audit:
    return Audit(source="builder log", layers=100, int8=int8, fp16=fp16, fp32=fp32)


@pytest.mark.parametrize(
    ("audit", "precision"),
    [
        (audit_of(int8=33, fp16=48), "int8"),
        (audit_of(int8=33, fp32=48), "int8"),
        (audit_of(fp16=66), "fp16"),
        (audit_of(fp32=66), "fp32"),
    ],
)
def test_a_true_claim_passes(audit, precision):
    audit.require(precision)


@pytest.mark.parametrize(
    ("audit", "precision"),
    [
        (audit_of(fp16=66), "int8"),
        (audit_of(), "int8"),
        (audit_of(int8=1, fp16=65), "fp16"),
        (audit_of(fp16=65, fp32=1), "fp16"),
        (audit_of(), "fp16"),
        (audit_of(fp16=1, fp32=65), "fp32"),
        (audit_of(int8=33, fp32=49), "fp32"),
        (audit_of(), "fp32"),
    ],
)
def test_a_false_claim_is_refused_with_what_was_made(audit, precision):
    with pytest.raises(DeployError, match=f"asked for {precision.upper()} and made something else") as caught:
        audit.require(precision)
    assert audit.summary() in caught.value.problem


@pytest.mark.parametrize(("made", "planned"), [(33, 33), (34, 33), (1, 1)])
def test_as_much_int8_as_planned_passes(made, planned):
    audit_of(int8=made, fp16=48).require("int8", planned_int8=planned)


@pytest.mark.parametrize(("made", "planned"), [(32, 33), (1, 82), (0, 1)])
def test_less_int8_than_planned_is_no_int8_engine(made, planned):
    with pytest.raises(DeployError, match=f"asked for INT8 and made something else: .* {made} INT8"):
        audit_of(int8=made, fp16=48).require("int8", planned_int8=planned)


def test_the_summary_counts_in_words():
    assert audit_of(int8=33, fp16=48).summary() == (
        "100 layers; convolutions and matrix products: 33 INT8, 48 FP16, 0 FP32 (builder log)"
    )
