import numpy as np
from handmade_graphs import graph_of, weight
from onnx import helper
from refusals import refuses
from small_models import colour_blocks

from deploykit.engine.lowering.dynamic_side import require_sides, with_dynamic_side
from deploykit.engine.shapes import SideRange
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session

SIDES = SideRange(min=32, opt=48, max=64)


def test_a_model_that_pools_takes_images_of_any_side_and_answers_the_same(tmp_path):
    """Its logits are an image's mean colours, at whatever side."""
    model = read_model(colour_blocks(tmp_path / "model.onnx"))
    before = to_bytes(model)
    session = cpu_session(to_bytes(with_dynamic_side(model)))
    for shape in ((1, 3, 32, 32), (2, 3, 64, 40)):
        images = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
        (logits,) = session.run(None, {"input": images})
        np.testing.assert_allclose(logits, images.mean(axis=(2, 3)), rtol=1e-5)
    require_sides(model, SIDES)
    assert to_bytes(model) == before


def test_a_model_whose_classifier_reads_every_pixel_is_refused():
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="y"),
    ]
    model = graph_of(nodes, {"w": weight(3 * 32 * 32, 2)}, takes={"x": (3, 32, 32)}, gives={"y": (2,)})
    with refuses("dynamic-side-unsupported") as caught:
        require_sides(model, SIDES)
    assert "--side" in caught.value.fix
