import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from refusals import refuses

from deploykit.data.preprocessing import Preprocessing
from deploykit.networks.model_info import ModelInfo, input_side_px, read_model_info, set_model_info
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.util.errors import DeployError

SHAPE = ("batch", 3, 8, 8)


def tiny_model(*inputs: tuple[str | int, ...]) -> onnx.ModelProto:
    """Passes its first input on."""
    values = [
        helper.make_tensor_value_info(f"input{index}", TensorProto.FLOAT, shape)
        for index, shape in enumerate(inputs)
    ]
    node = helper.make_node("Relu", ["input0"], ["output"])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, inputs[0])
    graph = helper.make_graph([node], "tiny", values, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def model_info(**fields: object) -> ModelInfo:
    known = {
        "family": "efficientnet",
        "phi": 2.5,
        "rule": "published",
        "precision": "fp32",
        "preprocessing": Preprocessing(side_px=8),
        "weights": "trained",
    }
    return ModelInfo(**{**known, **fields})


@pytest.mark.parametrize(
    "info",
    [
        model_info(),
        model_info(phi=0.1 + 0.2, rule="formula", weights="random", weights_sha256="ab" * 32),
        model_info(precision="fp16", onnx_sha256="cd" * 32),
        model_info(precision="int8", onnx_sha256="cd" * 32, ranges_sha256="ef" * 32),
        model_info(family="resnet50", phi=None, rule=None),
        model_info(preprocessing=Preprocessing(side_px=8, crop_padding_px=0, mean=(0, 0, 0), std=(1, 1, 1))),
        model_info(family="unknown", phi=None, rule=None, weights="unknown"),
    ],
    ids=lambda info: f"{info.family}-{info.precision}-{info.weights}",
)
def test_what_a_model_says_of_itself_survives_its_file(tmp_path, info):
    model = tiny_model(SHAPE)
    set_model_info(model, info)
    (tmp_path / "model.onnx").write_bytes(to_bytes(model))
    assert read_model_info(read_model(tmp_path / "model.onnx")) == info


def test_a_stamp_replaces_all_that_was_said_before():
    model = tiny_model(SHAPE)
    helper.set_model_props(model, {"author": "someone", "deploykit.onnx_sha256": "old"})
    set_model_info(model, model_info())
    assert read_model_info(model) == model_info()
    assert "author" not in {entry.key for entry in model.metadata_props}


def test_a_derived_model_keeps_where_it_came_from():
    derived = model_info(weights_sha256="ab").derive(precision="int8", onnx_sha256="cd", ranges_sha256="ef")
    assert derived == model_info(weights_sha256="ab", precision="int8", onnx_sha256="cd", ranges_sha256="ef")
    assert model_info(ranges_sha256="ef").derive(precision="fp16", onnx_sha256="cd").ranges_sha256 is None


def test_a_model_from_elsewhere_is_known_by_its_graph():
    model = tiny_model(("N", 3, 96, 96))
    helper.set_model_props(model, {"author": "someone"})
    info = read_model_info(model)
    assert (info.family, info.phi, info.rule, info.weights) == ("unknown", None, None, "unknown")
    assert info.precision == "fp32"
    assert info.preprocessing == Preprocessing(side_px=96)


@pytest.mark.parametrize(
    "inputs",
    [
        [("batch", 1, 8, 8)],
        [(4, 3, 8, 8)],
        [("batch", 8, 8, 3)],
        [("batch", 3, 8, 9)],
        [("batch", 3, "height", "width")],
        [("batch", 3, 8)],
        [("batch", 3, 8, 8, 1)],
        [SHAPE, SHAPE],
    ],
)
def test_inputs_that_are_no_square_rgb_images_are_refused(inputs):
    with refuses("model-input-unsupported") as caught:
        read_model_info(tiny_model(*inputs))
    assert "(batch, 3, side, side)" in caught.value.fix


def test_a_model_without_inputs_is_refused():
    model = tiny_model(SHAPE)
    del model.graph.input[:]
    with refuses("model-input-unsupported"):
        input_side_px(model)


def test_a_precision_nobody_knows_is_refused():
    model = tiny_model(SHAPE)
    set_model_info(model, model_info(precision="fp12"))
    with refuses("model-metadata-invalid"):
        read_model_info(model)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("precision", None),
        ("preprocessing", None),
        ("weights", None),
        ("phi", "three"),
        ("phi", "1000"),
        ("rule", "none"),
        ("family", "../../elsewhere"),
        ("preprocessing", "{"),
        ("preprocessing", '{"mean": [0, 0, 0], "std": [1, 1, 1]}'),
        ("preprocessing", '{"side_px": 8, "mean": [0, 0], "std": [1, 1, 1]}'),
        ("preprocessing", '{"side_px": 16, "mean": [0, 0, 0], "std": [1, 1, 1]}'),
    ],
)
def test_damaged_metadata_is_an_error_the_user_can_act_on(key, value):
    metadata = model_info().to_metadata() | {f"deploykit.{key}": value}
    model = tiny_model(SHAPE)
    helper.set_model_props(model, {name: text for name, text in metadata.items() if text is not None})
    with refuses("model-metadata-invalid"):
        read_model_info(model)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"<html>404 Not Found</html>" * 20, b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(
        DeployError, match=r"model\.onnx is not (an ONNX model, or was cut short|a valid ONNX model)"
    ):
        read_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("kept", [1, 100, 0.001, 0.5, 0.999, -1])
def test_a_model_cut_short_is_refused(tmp_path, random_b0, kept):
    whole = random_b0.path.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(DeployError, match="was cut short") as caught:
        read_model(path)
    assert "deploykit export" in caught.value.fix


def test_a_graph_that_reads_what_nobody_makes_is_refused(tmp_path):
    model = tiny_model(SHAPE)
    model.graph.node[0].input[0] = "nothing"
    (tmp_path / "model.onnx").write_bytes(to_bytes(model))
    with refuses("model-invalid"):
        read_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, wrong):
    model = tiny_model(SHAPE)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, wrong], np.float32), "w"))
    (tmp_path / "model.onnx").write_bytes(to_bytes(model))
    with refuses("model-values-invalid"):
        read_model(tmp_path / "model.onnx")


def test_weights_in_another_file_are_refused_with_a_way_to_join_them(tmp_path):
    model = tiny_model(SHAPE)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2000, np.float32), "w"))
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin")
    with refuses("model-external-data") as caught:
        read_model(tmp_path / "model.onnx")
    assert "save_as_external_data=False" in caught.value.fix


@pytest.mark.parametrize("name", ["missing.onnx", "."])
def test_a_missing_model_is_an_error_that_says_how_to_make_one(tmp_path, name):
    with pytest.raises(DeployError, match="There is no model") as caught:
        read_model(tmp_path / name)
    assert "deploykit export --phi 3" in caught.value.fix


def test_bytes_do_not_depend_on_the_order_in_which_metadata_was_set(random_b0):
    model = read_model(random_b0.path)
    assert to_bytes(model) == random_b0.path.read_bytes()
    set_model_info(model, random_b0.info)
    assert to_bytes(model) == random_b0.path.read_bytes()
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.nextafter(weights, 9), model.graph.initializer[0].name)
    )
    assert to_bytes(model) != random_b0.path.read_bytes()
