"""What compiled layers read and write; the numbers are worked out by hand from the shapes."""

import pytest

from deploykit.engine.audit.audit import Audit, Traffic
from deploykit.engine.audit.traffic import LayerTensor, layer_traffic
from deploykit.engine.build import build_engine
from deploykit.engine.manifest import EngineManifest
from deploykit.engine.shapes import BatchRange
from deploykit.onnx_tools.products import Product
from deploykit.util.types import Precision


def matrix_product(*, inputs: int, outputs: int, rows: int) -> Product:
    return Product(
        op="MatMul",
        output="y",
        output_shape=(rows, outputs),
        activation="x",
        weight="w",
        weight_shape=(inputs, outputs),
        channel_axis=1,
    )


FC = matrix_product(inputs=1280, outputs=1000, rows=1)
POINTWISE = matrix_product(inputs=32, outputs=16, rows=1024)


def tensor(name: str, *shape: int, datatype: str = "Half") -> LayerTensor:
    return LayerTensor(name=name, shape=shape, datatype=datatype)


def test_activations_scale_with_the_batch_and_weights_do_not():
    layer = (
        tensor("x", -1, 3, 64, 64, datatype="Float"),
        tensor("w", 32, 4, 3, 3),
        tensor("y", -1, 32, 32, 32),
    )
    (found,) = layer_traffic([layer], [[]], frozenset())
    assert found == Traffic(fixed_bytes=2 * 32 * 36, image_bytes=4 * 3 * 64 * 64 + 2 * 32 * 32 * 32)
    assert found.size_bytes(8) == 2304 + 8 * (49152 + 65536)


def test_a_profile_of_one_batch_size_has_only_fixed_bytes():
    layer = (tensor("x", 8, 3, 64, 64, datatype="Int8"), tensor("y", 8, 3, datatype="Float"))
    (found,) = layer_traffic([layer], [[]], frozenset())
    assert found == Traffic(fixed_bytes=8 * 3 * 64 * 64 + 4 * 8 * 3, image_bytes=0)


def test_a_matrix_has_one_row_for_each_place_of_its_product():
    product = (
        tensor("x", -1, 32, datatype="Int8"),
        tensor("w", 32, 16, datatype="Int8"),
        tensor("y", -1, 16),
    )
    following = (tensor("y", -1, 16), tensor("z", -1, 32, 32, 16))
    found = layer_traffic([product, following], [[POINTWISE], []], frozenset())
    assert found == [
        Traffic(fixed_bytes=32 * 16, image_bytes=1024 * 32 + 2 * 1024 * 16),
        Traffic(fixed_bytes=0, image_bytes=2 * 1024 * 16 + 2 * 32 * 32 * 16),
    ]


def test_a_matrix_is_as_large_as_another_layer_sees_it():
    layers = [(tensor("x", -1, 16),), (tensor("x", -1, 32, 32, 16),)]
    assert (
        layer_traffic(layers, [[], []], frozenset())
        == [Traffic(fixed_bytes=0, image_bytes=2 * 16 * 1024)] * 2
    )


def test_outputs_have_one_row_per_image():
    layer = (tensor("x", -1, 1000), tensor("logits", -1, 1000, datatype="Float"))
    product = (tensor("pooled", -1, 1280), tensor("x", -1, 1000))
    (found, _) = layer_traffic([layer, product], [[], [FC]], frozenset({"logits"}))
    assert found == Traffic(fixed_bytes=0, image_bytes=(2 + 4) * 1000)


def test_a_tensor_that_a_layer_reads_twice_counts_once():
    layer = (tensor("x", -1, 4, 1), tensor("x", -1, 4, 1), tensor("y", -1, 96, 1))
    assert layer_traffic([layer], [[]], frozenset()) == [Traffic(fixed_bytes=0, image_bytes=8 + 192)]


@pytest.mark.parametrize(
    "layer",
    [
        None,
        (tensor("x", -1, 16), tensor("y", -1, 16)),  # rows without number
        (tensor("x", -1, 3, -1, -1),),  # of sides that are not known
        (tensor("x", 8, 3, datatype="Q"),),
    ],
)
def test_unknown_traffic_is_none(layer):
    assert layer_traffic([layer], [[]], frozenset()) == [None]


def test_a_convolution_fused_with_pooling_does_not_determine_rows():
    layer = (tensor("x", -1, 320, 49), tensor("w", 1280, 320), tensor("y", -1, 1280))
    work = matrix_product(inputs=320, outputs=1280, rows=49)
    assert layer_traffic([layer], [[work]], frozenset()) == [None]


@pytest.mark.parametrize(
    ("datatype", "size"),
    [("Float", 4), ("Half", 2), ("Int8", 1), ("UInt8", 1), ("Int64", 8), ("Row major linear FP16 format", 2)],
)
def test_the_compilers_type_names_have_sizes(datatype, size):
    layer = (tensor("x", 10, datatype=datatype),)
    assert layer_traffic([layer], [[]], frozenset()) == [Traffic(fixed_bytes=10 * size, image_bytes=0)]


# ---------------------------------------------------------------- real builds


@pytest.fixture(scope="module")
def built(random_b0, tmp_path_factory):
    def build(gpu: str, precision: Precision, *batches: BatchRange) -> EngineManifest:
        output = tmp_path_factory.mktemp("traffic") / "e.engine"
        made = build_engine(onnx=random_b0.path, gpu=gpu, precision=precision, batches=batches, output=output)
        return made.manifest

    return build


ANY, EIGHT = BatchRange(min=1, opt=8, max=64), BatchRange(min=8, opt=8, max=8)


def moved(audit: Audit, *, batch: int) -> int:
    return sum(layer.traffic.size_bytes(batch) for layer in audit.layers if layer.traffic)


@pytest.mark.parametrize(("gpu", "precision"), [("RTX 4090", "fp16"), ("T4", "int8")])
def test_the_traffic_of_every_layer_is_known_for_dynamic_batches(built, gpu, precision):
    audit = built(gpu, precision, ANY).audit
    assert all(layer.traffic is not None for layer in audit.layers)
    (stem,) = [layer for layer in audit.layers if layer.products and "conv_stem" in layer.nodes]
    assert stem.traffic is not None
    channels = {"RTX 4090": 4, "T4": 8}[gpu]  # that the three are padded to
    weights = 2 * 32 * channels * 9
    assert stem.traffic.image_bytes == 2 * (channels * 64 * 64 + 32 * 32 * 32)
    assert stem.traffic.fixed_bytes == pytest.approx(weights, abs=4 * 32 + 16)  # biases and scales


def test_fixed_and_dynamic_batches_have_the_same_traffic(built):
    many = built("RTX 4090", "fp16", ANY).audit
    one, eight = built("RTX 4090", "fp16", BatchRange(min=1, opt=1, max=1), EIGHT).audit.profiles
    assert moved(one, batch=1) == pytest.approx(moved(many, batch=1), rel=0.01)
    assert moved(eight, batch=8) == pytest.approx(moved(many, batch=8), rel=0.01)
