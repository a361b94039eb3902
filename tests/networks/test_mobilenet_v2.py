from dataclasses import replace

import pytest

from deploykit.networks.families.mobilenet_v2 import mobilenet_v2
from deploykit.networks.scaling import BASE


def test_the_baseline_has_the_parameter_count_of_torchvision():
    assert mobilenet_v2().parameter_count == 3_504_872


# timm, results/benchmark-infer-*.csv: infer_gmacs and param_count of mobilenetv2_050, _100, _140.
@pytest.mark.parametrize(
    ("width", "mega_parameters", "gmacs"), [(0.5, 1.97, 0.10), (1.0, 3.50, 0.31), (1.4, 6.11, 0.60)]
)
def test_every_width_has_the_parameters_and_macs_of_timm(width, mega_parameters, gmacs):
    network = mobilenet_v2(replace(BASE, width=width))
    assert network.parameter_count / 1e6 == pytest.approx(mega_parameters, abs=0.006)
    # timm's count includes batch norms and poolings.
    assert network.macs / 1e9 == pytest.approx(gmacs, rel=0.05)


def test_the_head_is_never_narrower_than_in_the_baseline():
    shapes = {conv.name: conv.output for conv in mobilenet_v2(replace(BASE, width=0.5)).convolutions}
    assert shapes["conv_head"] == (1280, 7, 7)


def test_parameters_have_the_names_of_timm():
    state = mobilenet_v2().state_shapes
    assert state["conv_stem.weight"] == (32, 3, 3, 3)
    assert state["blocks.0.0.conv_pw.weight"] == (16, 32, 1, 1)
    assert state["blocks.1.0.conv_pwl.weight"] == (24, 96, 1, 1)
    assert state["blocks.6.0.bn3.running_mean"] == (320,)
    assert state["classifier.weight"] == (1000, 1280)


def test_ten_blocks_have_a_residual_sum():
    # arXiv:1801.04381, Table 2: every repeat but a stage's first, 1 + 2 + 3 + 2 + 2.
    names = [layer.name for layer in mobilenet_v2().layers]
    assert sum(name.endswith(".add") for name in names) == 10
