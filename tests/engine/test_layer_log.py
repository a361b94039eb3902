import json
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest
from handmade_graphs import graph_of, ranges_of, weight
from onnx import ModelProto, helper

from deploykit.engine.audit.audit import Audit, Traffic
from deploykit.engine.audit.layer_log import audit_builder_log, audit_engine_inspector
from deploykit.engine.prepare_graph import apply_precision
from deploykit.engine.shapes import BatchRange
from deploykit.engine.targets import Target
from deploykit.engine.tensorrt_compiler import compile_plan
from deploykit.networks.model_info import read_model_info
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.float_fallback import FloatFallback
from deploykit.quantize.placement import place_int8
from deploykit.quantize.plan import Int8Plan

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


def model_with(*nodes) -> ModelProto:
    return graph_of(list(nodes), {"w": weight(10, 1280)}, takes={"x": (1280,)}, gives={"y": None})


def classifier(name: str) -> ModelProto:
    return model_with(helper.make_node("Gemm", ["x", "w"], ["y"], name=name, transB=1))


def metadata(*names: str) -> str:
    return ", StreamId: 0, Metadata: " + "".join(f"[ONNX Layer: {name}]" for name in names)


@pytest.mark.parametrize(
    ("line", "node", "precision"),
    [
        (INT8_GEMM, "logits.product", "int8"),
        (FP16_CONVOLUTION, "blocks.0.0.conv_dw", "fp16"),
        (FP32_GEMM, "classifier", "fp32"),
    ],
)
def test_a_product_has_the_precision_of_its_input(line, node, precision):
    (layer,) = audit_builder_log([line + metadata(node)], classifier(node)).layers
    assert (layer.products, layer.precision, layer.macs, layer.nodes) == (1, precision, 12800, (node,))


@pytest.mark.parametrize("line", [KERNEL_THAT_READS_INT8, WITHOUT_INPUTS])
def test_other_kernels_have_no_precision(line):
    (layer,) = audit_builder_log([line], classifier("classifier")).layers
    assert (layer.products, layer.precision, layer.macs) == (0, None, 0)


def test_log_lines_that_are_no_layers_are_ignored():
    audit = audit_builder_log(CHATTER, classifier("classifier"))
    assert (audit.layers, audit.missing_products) == ((), 1)


def test_a_kernel_that_prepares_a_products_input_does_not_compute_it():
    """The builder names the product in both."""
    lines = [KERNEL_THAT_READS_INT8 + metadata("conv"), FP16_CONVOLUTION + metadata("conv", "conv.silu")]
    for order in (lines, lines[::-1]):
        by_kind = {layer.kind: layer for layer in audit_builder_log(order, classifier("conv")).layers}
        assert (by_kind["kgen"].products, by_kind["correlation"].products) == (0, 1)
        assert by_kind["correlation"].is_fused


def test_a_product_that_only_a_generated_kernel_lists_is_computed_by_it():
    (layer,) = audit_builder_log([KERNEL_THAT_READS_INT8 + metadata("conv")], classifier("conv")).layers
    assert (layer.products, layer.precision) == (1, "int8")


@pytest.mark.parametrize(
    ("operations", "moves"),
    [("CastReplConc", True), ("Tran", True), ("ReshReplConcResh", True), ("SiluMean", False), ("Mul", False)],
)
def test_a_generated_kernel_that_only_moves_is_a_reformat(operations, moves):
    line = KERNEL_THAT_READS_INT8.replace("CastReplConc", operations)
    (layer,) = audit_builder_log([line], classifier("classifier")).layers
    assert layer.is_reformat == moves


def test_channels_beyond_those_of_the_model_count_as_padding():
    model = graph_of(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", group=8)],
        {"w": weight(8, 1, 3, 3)},
        takes={"x": (8, 32, 32)},
        gives={"y": None},
    )
    (layer,) = audit_builder_log(
        [FP16_CONVOLUTION + metadata("conv")], model
    ).layers  # which reads 32 channels
    assert (layer.padded, layer.is_depthwise) == (4, True)


# ---------------------------------------------------------------- an engine's inspector

# The layer that NVIDIA's documentation shows of TensorRT 10, with the metadata it has since 8.6; no GPU has
# been at hand to make one.
IN_WORDS = {
    "Name": "res4_0_branch2a + res4_0_branch2a_relu",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {
            "Name": "res3_3_branch2c",
            "Dimensions": [16, 512, 28, 28],
            "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format.",
        }
    ],
    "Outputs": [],
    "ParameterType": "Convolution",
    "Metadata": "[ONNX Layer: conv]\x1f[ONNX Layer: conv.relu]",
}
REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to conv",
    "LayerType": "Reformat",
    "Inputs": [
        {
            "Name": "x",
            "Dimensions": [1, 3, 224, 224],
            "Format/Datatype": "Row major linear FP16 format",
        }
    ],
    "Metadata": "[ONNX Layer: conv]",
}


def inspected(*layers) -> Audit:
    model = graph_of(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        {"w": weight(256, 512, 1, 1)},
        takes={"x": (512, 28, 28)},
        gives={"y": None},
    )
    return audit_engine_inspector(json.dumps({"Layers": list(layers)}), model)


def test_an_inspectors_layers_are_read():
    for order in ([REFORMAT, IN_WORDS], [IN_WORDS, REFORMAT]):
        audit = inspected(*order)
        assert (audit.source, audit.missing_products) == ("engine inspector", 0)
        (product,) = (layer for layer in audit.layers if layer.products)
        assert (product.kind, product.precision, product.padded) == ("CaskConvolution", "int8", 1)
        assert product.macs == 256 * 512 * 28 * 28
        assert product.is_fused
        assert sum(layer.is_reformat for layer in audit.layers) == 1


@pytest.mark.parametrize(
    ("described", "precision"),
    [
        ({"Format/Datatype": "Half"}, "fp16"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 4 == 0"}, "fp16"),
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Float"}, "fp32"),
        ({"Format": "Row major linear", "DataType": "Int8"}, "int8"),  # of TensorRT 11
        ({"Format": "N/A", "DataType": "Half"}, "fp16"),
    ],
)
def test_types_of_both_major_versions_are_read(described, precision):
    layer = {**IN_WORDS, "Inputs": [{"Name": "x", "Dimensions": [1, 512, 28, 28], **described}]}
    assert inspected(layer).product_count(precision) == 1


def test_bytes_are_reported_if_the_inspector_reports_weights():
    assert [layer.traffic for layer in inspected(IN_WORDS, REFORMAT).layers] == [None, None]
    tensor = {"Name": "y", "Dimensions": [16, 256, 28, 28], "Format/Datatype": "Channel major FP16 format"}
    weights = {"Weights": {"Type": "Int8", "Count": 131072}, "Bias": {"Type": "Float", "Count": 256}}
    (layer,) = inspected({**IN_WORDS, "Outputs": [tensor], **weights}).layers
    expected = 16 * 28 * 28 * (512 + 2 * 256) + 131072 + 4 * 256
    assert layer.traffic == Traffic(fixed_bytes=expected, image_bytes=0)


def test_an_engine_built_without_detail_shows_no_products():
    assert inspected("conv + relu").missing_products == 1


# ---------------------------------------------------------------- real builds


@pytest.fixture(scope="module")
def audited(random_b0) -> Iterator:
    """B0 as TensorRT-RTX compiles it, each kind once."""

    @cache
    def build(precision: str, sm: int | None) -> Audit:
        model = read_model(random_b0.path)
        target = Target(name="test" if sm else "portable", compiler="tensorrt-rtx", sm=sm)
        plan = plan_of(model) if precision == "int8" else None
        graph = apply_precision(model, read_model_info(model), precision, target, onnx_sha256="", plan=plan)
        return compile_plan(graph, target=target, batches=[BatchRange(max=8)]).audit

    yield build
    build.cache_clear()


def plan_of(model) -> Int8Plan:
    placement = place_int8(model, "pointwise")
    ranges = ranges_of(dict.fromkeys(placement.tensors, (-0.28, 4.0)))
    return Int8Plan(placement=placement, ranges=ranges, float_fallback=FloatFallback(), gate=None)


SMS = [75, 80, 89, 120, None]


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_product_is_found_once_with_its_work(audited, random_b0, precision, sm):
    audit = audited(precision, sm)
    model = read_model(random_b0.path)
    assert audit.missing_products == 0
    # B0's 81 convolutions and classifier; its work as GraphFacts counts it, which a test holds to Network's.
    assert sum(layer.products for layer in audit.layers) == 82
    assert sum(layer.macs for layer in audit.layers) == place_int8(model, "all-conv").macs
    expected = place_int8(model, "pointwise").int8_share if precision == "int8" else 0
    assert audit.macs_share("int8") == pytest.approx(expected)
    assert audit.macs_share("int8") + audit.macs_share("fp16") == pytest.approx(1)


def test_turing_pads_depthwise_convolutions_and_later_gpus_do_not(audited):
    """Documents TensorRT-RTX 1.7: eight channels a group, in FP16."""
    assert [layer.padded for layer in audited("fp16", 75).padded_depthwise] == [8.0] * 16
    assert not audited("fp16", 89).padded_depthwise


def test_most_nodes_between_products_are_fused(audited):
    audit = audited("fp16", 89)
    kinds = Counter(layer.kind for layer in audit.layers)
    assert sum(layer.is_fused for layer in audit.layers) > 40
    assert kinds["runtime_fusion"] > 20
    assert sum(layer.is_reformat for layer in audit.layers) < 5
