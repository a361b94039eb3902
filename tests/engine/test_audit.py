import pytest
from refusals import refuses

from deploykit.engine.audit.audit import Audit, CompiledLayer


def layer(precision: str | None, *, macs: int = 10, **others) -> CompiledLayer:
    products = 0 if precision is None else 1
    settings = {"products": products, "macs": macs * products, "precision": precision, **others}
    return CompiledLayer(name="k", kind="gemm", **settings)


def audit_of(**counts: int) -> Audit:
    """So many products of each precision, among a hundred layers."""
    layers = [layer(precision) for precision, count in counts.items() for _ in range(count)]
    others = [layer(None)] * (100 - len(layers))
    return Audit(source="builder log", layers=(*layers, *others))


@pytest.mark.parametrize(
    ("audit", "precision"),
    [
        (audit_of(int8=33, fp16=48), "int8"),
        (audit_of(fp16=66), "fp16"),
        (audit_of(fp32=66), "fp32"),
    ],
)
def test_an_engine_of_the_requested_precision_passes(audit, precision):
    audit.require_precision(precision)


def test_fp32_beside_int8_is_accepted_only_on_a_cpu():
    made = audit_of(int8=33, fp32=48)
    made.require_precision("int8", on_cpu=True)
    with refuses("engine-precision-mismatch"):
        made.require_precision("int8")


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
def test_an_engine_of_another_precision_is_refused_with_its_summary(audit, precision):
    with refuses("engine-precision-mismatch") as caught:
        audit.require_precision(precision)
    assert audit.summary() in caught.value.problem


@pytest.mark.parametrize(("made", "planned"), [(33, 33), (34, 33), (1, 1)])
def test_as_much_int8_as_planned_passes(made, planned):
    audit_of(int8=made, fp16=48).require_precision("int8", planned_int8=planned)


@pytest.mark.parametrize(("made", "planned"), [(32, 33), (1, 82), (0, 1)])
def test_less_int8_than_planned_is_refused(made, planned):
    shown = f" {made} INT8" if made else "48 FP16"
    with refuses("engine-precision-mismatch") as caught:
        audit_of(int8=made, fp16=48).require_precision("int8", planned_int8=planned)
    assert shown in caught.value.problem


def test_the_summary_counts_layers_and_products():
    made = Audit(
        source="builder log",
        layers=(
            layer("int8", macs=750, nodes=("a",)),
            layer("fp16", macs=150, nodes=("b", "b.silu"), is_depthwise=True, padded=8.0),
            layer("fp16", macs=100, nodes=("c",), padded=4 / 3),
            layer(None, is_reformat=True),
            layer(None, nodes=("d", "e")),
        ),
    )
    assert made.summary() == (
        "5 layers, 1 of them reformats; convolutions and matrix products: 1 INT8 (75.0 % of the work), "
        "2 FP16 (25.0 % of the work); 1 fused with other nodes; 1 depthwise ones padded, up to 8 times the "
        "channels (builder log)"
    )
    assert [made.macs_share(precision) for precision in ("int8", "fp16", "fp32")] == [0.75, 0.25, 0]


def test_missing_products_are_counted_in_the_summary():
    made = Audit(source="builder log", layers=(layer("fp16"), layer(None)), graph_products=3)
    assert made.missing_products == 2
    assert "2 not found" in made.summary()


@pytest.mark.parametrize(("found", "is_told"), [(1, False), (73, False), (74, True), (82, True)])
def test_an_engine_with_too_many_missing_products_is_refused(found, is_told):
    made = Audit(source="builder log", layers=(layer("fp16"),) * found, graph_products=82)
    if is_told:
        made.require_precision("fp16")
        return
    with refuses("engine-audit-failed"):
        made.require_precision("fp16")


def test_every_profile_is_checked():
    first, second = (layer("fp16", profile=number) for number in (0, 1))
    same = Audit(source="builder log", layers=(first, first, second, second), graph_products=2)
    same.require_precision("fp16")
    assert same.summary().startswith("each of 2 profiles: 2 layers")
    for wrong in (layer("fp32"), layer("fp32", profile=1)):
        mixed = Audit(source="builder log", layers=(*same.layers, wrong), graph_products=2)
        with refuses("engine-precision-mismatch") as caught:
            mixed.require_precision("fp16")
        assert caught.value.problem.count("1 FP32") == 1
    short = Audit(source="builder log", layers=(first, first, second), graph_products=2)
    with refuses("engine-audit-failed"):
        short.require_precision("fp16")


def test_an_engine_without_products_has_zero_shares():
    assert Audit(source="builder log", layers=(layer(None),)).macs_share("fp16") == 0
