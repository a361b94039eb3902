"""Members of every family match what was published about them."""

from pathlib import Path

import pytest
from refusals import refuses

from deploykit.networks.families.registry import FAMILIES, find_family
from deploykit.networks.member import choose_member
from deploykit.networks.scaling import Coefficients, Scale

# Millions of parameters, G of multiply-accumulates.
MEMBERS = {
    # tensorflow/tpu, models/official/efficientnet/lite/README.md
    ("efficientnet-lite", "lite0"): (4.7, 0.407),
    ("efficientnet-lite", "lite1"): (5.4, 0.631),
    ("efficientnet-lite", "lite2"): (6.1, 0.899),
    ("efficientnet-lite", "lite3"): (8.2, 1.44),
    ("efficientnet-lite", "lite4"): (13.0, 2.64),
    # google/automl, efficientnetv2/README.md
    ("efficientnetv2", "b0"): (7.1, 0.72),
    ("efficientnetv2", "b1"): (8.1, 1.2),
    ("efficientnetv2", "b2"): (10.1, 1.7),
    ("efficientnetv2", "b3"): (14.4, 3.0),
    ("efficientnetv2-s", "s"): (21.5, 8.4),
    ("efficientnetv2-m", "m"): (54.1, 24.7),
    ("efficientnetv2-l", "l"): (118.5, 56.3),  # parameters: timm's; the README's 119.5 has statistics too
    # huggingface/pytorch-image-models, results/benchmark-infer-amp-nchw-pt113-cu117-rtx3090.csv
    ("mobilenet-v2", "0.35"): (1.68, 0.07),
    ("mobilenet-v2", "0.50"): (1.97, 0.10),
    ("mobilenet-v2", "0.75"): (2.64, 0.22),
    ("mobilenet-v2", "1.00"): (3.50, 0.31),
    ("mobilenet-v2", "1.40"): (6.11, 0.60),
    ("mobilenet-v2-d", "110d"): (4.52, 0.45),
    ("mobilenet-v2-d", "120d"): (5.83, 0.69),
    # torchvision's model pages
    ("resnet18", "18"): (11.7, 1.81),
    ("resnet34", "34"): (21.8, 3.66),
    ("resnet50", "50"): (25.6, 4.09),
    ("resnet101", "101"): (44.5, 7.80),
    ("resnet152", "152"): (60.2, 11.51),
    # facebookresearch/pycls, MODEL_ZOO.md; 800MF: timm, whose last stage is narrower
    ("regnety-200mf", "200mf"): (3.2, 0.200),
    ("regnety-400mf", "400mf"): (4.3, 0.404),
    ("regnety-600mf", "600mf"): (6.1, 0.600),
    ("regnety-800mf", "800mf"): (6.3, 0.835),
    # google/automl, efficientdet/README.md; D5's work: arXiv:1911.09070, Table 2
    ("efficientdet", "d0"): (3.9, 2.54),
    ("efficientdet", "d1"): (6.6, 6.10),
    ("efficientdet", "d2"): (8.1, 11.0),
    ("efficientdet", "d3"): (12.0, 24.9),
    ("efficientdet", "d4"): (20.7, 55.2),
    ("efficientdet", "d5"): (33.7, 135),
    ("efficientdet", "d6"): (51.9, 226),
    ("efficientdet", "d7"): (51.9, 325),
    # arXiv:1905.11946, Table 2; timm's efficientnet_b8 and efficientnet_l2
    ("efficientnet", "b0"): (5.3, 0.39),
    ("efficientnet", "b7"): (66.3, 37.7),
    ("efficientnet", "b8"): (87.4, 63.5),
    ("efficientnet", "l2"): (480.3, None),
}


@pytest.mark.parametrize(("family", "member"), MEMBERS)
def test_members_have_the_published_parameters_and_macs(family, member):
    mega_parameters, gmacs = MEMBERS[family, member]
    network = choose_member(family, named=member).network()
    assert network.parameter_count / 1e6 == pytest.approx(mega_parameters, rel=0.005, abs=0.06)
    if gmacs is not None:  # of which batch norms and poolings are part, in most of these
        assert network.macs / 1e9 == pytest.approx(gmacs, rel=0.07, abs=0.011)


def test_every_member_is_compared_with_a_publication():
    told = {family for family, _ in MEMBERS}
    assert told == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_every_family_is_consistent(family):
    assert family.ladder[0] == family.base
    assert len(family.ladder) == 1 or set(family.ladder) <= set(family.members.values())
    least = {"top-1": 0.6, "AP": 0.3}[family.metric]
    assert all(least < found.value < 0.9 and found.source for found in family.accuracy.values())
    assert family.network(family.base).family == family.name
    assert family.network(family.base, num_classes=7).num_classes == 7
    assert family.network(family.base).num_classes == family.num_classes
    larger = [family.network(family.scale_for(phi)).macs for phi in family.default_phis]
    assert larger == sorted(set(larger))


def test_scale_names_the_metric_of_the_accuracy(run):
    detectors, classifiers = run("scale", "--family", "efficientdet"), run("scale", "--phi", "0")
    assert detectors.out.splitlines()[0].endswith("AP")
    assert detectors.out.splitlines()[1].endswith("34.6 %")  # google/automl, efficientdet/README.md
    assert classifiers.out.splitlines()[0].endswith("top-1")


def test_an_unknown_family_is_refused_with_a_list_of_families():
    with refuses("unknown-family") as caught:
        find_family("lenet")
    assert "resnet18" in caught.value.fix


# ---------------------------------------------------------------- choosing


def test_phi_selects_the_published_member_if_there_are_several():
    assert choose_member("efficientnetv2", phi=2).scale == Scale(width=1.1, depth=1.2, side_px=260)
    assert choose_member("efficientnetv2", named="b2") == choose_member("efficientnetv2", phi=2)


def test_phi_scales_by_the_formula_if_there_is_one_published_member():
    found = choose_member("resnet18", phi=1)
    assert found.scale == Scale(depth=1.2, width=1.1, side_px=256)
    assert (found.rule, found.name) == ("formula", "resnet18-formula-phi1")


def test_a_scale_given_directly_has_no_phi_and_is_in_the_name():
    found = choose_member("resnet18", depth=2, width=0.5)
    assert (found.phi, found.rule) == (None, None)
    assert found.scale == Scale(depth=2, width=0.5, side_px=224)
    assert found.name == "resnet18-depth2-width0.5-side224"


def test_overriding_only_the_side_keeps_phi():
    found = choose_member(phi=3, side_px=224)
    assert (found.phi, found.scale.side_px, found.name) == (3, 224, "efficientnet-phi3")


def test_custom_coefficients_select_the_formula():
    found = choose_member(phi=2, coefficients=Coefficients(depth=1.1, width=1.2, side=1.0))
    assert found.scale == Scale(depth=1.1**2, width=1.2**2, side_px=224)
    assert found.phi is None  # phi 2 of the paper's coefficients is another network


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"named": "b9"}, "unknown-member"),
        ({"named": "b3", "phi": 3}, "option-conflict"),
        ({"phi": 3, "rule": "published", "coefficients": Coefficients()}, "option-conflict"),
        ({"phi": 1, "coefficients": Coefficients(depth=0)}, "invalid-coefficients"),
        ({"depth": 0}, "invalid-scale"),
        ({"width": -1}, "invalid-scale"),
        ({"width": float("nan")}, "invalid-scale"),
        ({"depth": 1000}, "invalid-scale"),
        ({"side_px": 31}, "invalid-side"),
        ({"family": "mobilenet-v2", "phi": -9}, "invalid-phi"),
        ({"family": "resnet18", "phi": 1, "rule": "published"}, "invalid-phi"),
    ],
)
def test_arguments_that_give_no_network_are_refused(arguments, code):
    with refuses(code):
        choose_member(**arguments)


def test_the_narrowest_network_has_no_empty_layer():
    network = choose_member(width=0.001, depth=0.001, side_px=32).network()
    assert min(min(layer.output) for layer in network.layers) >= 1


# ---------------------------------------------------------------- family files

DOCS = Path(__file__).parents[2] / "docs" / "families.md"


@pytest.fixture
def tiny(workplace) -> str:
    """The example of the documentation, as a file."""
    code = DOCS.read_text().split("```python\n")[1].split("```")[0]
    (workplace / "tiny.py").write_text(code)
    return "tiny.py"


def test_the_example_in_the_documentation_is_exported_built_and_fitted(run, tiny):
    exported = run("export", "--family", tiny, "--phi", "1", "--num-classes", "10")
    assert exported.status == 0, exported.err
    assert exported.out.startswith("engines/tiny-formula-phi1/model.onnx: 72 px, 10 classes")
    assert run("build-engine", "--gpu", "T4", "--fp16").status == 0
    assert run("build-engine", "--gpu", "cpu", "--int8").status == 0
    fitted = run("fit", "--family", tiny, "--gpu", "T4", "--max-latency", "10ms")
    assert (fitted.status, fitted.out.split()[0]) == (0, "Tiny")


@pytest.mark.parametrize(
    ("content", "code", "about"),
    [
        (None, "file-not-found", "mine.py"),
        ("FAMILY = 3", "family-file-invalid", "FAMILY"),
        ("1 / 0", "family-file-invalid", "ZeroDivisionError: division by zero"),
        ("def (", "family-file-invalid", "SyntaxError"),
    ],
)
def test_a_file_without_a_family_is_refused(run, workplace, content, code, about):
    if content is not None:
        (workplace / "mine.py").write_text(content)
    refused = run("export", "--family", "mine.py", "--phi", "0")
    assert (refused.status, refused.out, refused.code) == (2, "", code)
    assert about in refused.err
