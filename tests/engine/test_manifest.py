import json
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refuses

from deploykit.data.preprocessing import Preprocessing
from deploykit.engine.audit.audit import Audit, CompiledLayer
from deploykit.engine.manifest import (
    EngineManifest,
    TensorSpec,
    manifest_path,
    read_engine_manifest,
    write_engine,
)
from deploykit.engine.shapes import BatchRange
from deploykit.engine.targets import Target
from deploykit.networks.model_info import ModelInfo
from deploykit.quantize.summary import Int8Summary
from deploykit.util.json_io import to_json, to_sealed_json

PLAN = b"a plan of a few bytes"
PLAN_SHA256 = "98a0ca4ec02c7072064bfa40cf2c21fe0a904faec60666823a93da9779f73185"  # of sha256sum


@pytest.fixture
def manifest() -> EngineManifest:
    model = ModelInfo(
        family="efficientnet",
        phi=2.5,
        rule="published",
        precision="int8",
        preprocessing=Preprocessing(side_px=280, mean=(0.1, 0.2, 0.3)),
        weights="trained",
        weights_sha256="1" * 64,
        onnx_sha256="2" * 64,
        ranges_sha256="3" * 64,
    )
    return EngineManifest(
        engine_sha256=PLAN_SHA256,
        precision="int8",
        compiler_version="1.7.1.116",
        target=Target(name="T4", compiler="tensorrt-rtx", sm=75, note="A sentence with “quotes”."),
        batches=(BatchRange(min=1, opt=8, max=64),),
        input=TensorSpec(name="input", dtype="float32", shape=(3, 280, 280)),
        output=TensorSpec(name="logits", dtype="float32", shape=(1000,)),
        model=model,
        audit=Audit(
            source="builder log",
            layers=(
                CompiledLayer(name="a_U3", kind="gemm", nodes=("a",), products=1, macs=700, precision="int8"),
                CompiledLayer(
                    name="__myl_CorrSilu_myl0_2",
                    kind="runtime_fusion",
                    nodes=("b", "b.silu"),
                    products=1,
                    macs=300,
                    precision="fp16",
                    padded=1.5,
                    is_depthwise=True,
                ),
                CompiledLayer(name="__myl_Tran_myl0_3", kind="kgen", is_reformat=True),
            ),
        ),
        build_seconds=1.25,
        deploykit_version="0.1.0",
        int8=Int8Summary(
            policy="pointwise",
            method="percentile 99.99",
            share=0.875,
            left_out=("blocks.0.0.conv_pw", "conv_head"),
            excluded=("blocks.1.0",),
            drop=0.25,
        ),
    )


@pytest.fixture
def engine(tmp_path, manifest) -> Path:
    path = tmp_path / "new" / "model.int8.sm75.engine"
    write_engine(path, PLAN, manifest)
    return path


def test_what_is_written_is_read_back(engine, manifest):
    assert engine.read_bytes() == PLAN
    assert read_engine_manifest(engine) == manifest


def test_the_manifest_is_a_json_file_beside_the_engine(engine):
    path = manifest_path(engine)
    assert path == engine.with_name("model.int8.sm75.engine.json")
    fields = json.loads(path.read_text())
    assert fields["target"]["sm"] == 75
    assert fields["model"]["ranges_sha256"] == "3" * 64
    assert fields["batches"] == [{"min": 1, "opt": 8, "max": 64}]
    assert fields["audit"]["layers"][0]["precision"] == "int8"
    assert fields["int8"]["left_out"] == ["blocks.0.0.conv_pw", "conv_head"]
    assert fields["int8"]["share"] == 0.875


@pytest.mark.parametrize("written", [True, False], ids=["null", "left out"])
def test_a_manifest_without_an_int8_summary_is_read(engine, manifest, written):
    path = manifest_path(engine)
    fields = json.loads(path.read_text())
    del fields["int8"]
    del fields["seal_sha256"]
    path.write_text(to_sealed_json(fields | ({"int8": None} if written else {})))
    assert read_engine_manifest(engine) == replace(manifest, int8=None)


def test_nothing_else_is_left_beside_the_engine(engine):
    assert sorted(path.name for path in engine.parent.iterdir()) == [engine.name, f"{engine.name}.json"]


@pytest.mark.parametrize(
    "altered", [PLAN[:-1], b"", PLAN + b"!", b"A" + PLAN[1:]], ids=["cut", "empty", "longer", "changed"]
)
def test_a_modified_engine_is_refused(engine, altered):
    engine.write_bytes(altered)
    with refuses("engine-damaged"):
        read_engine_manifest(engine)


def test_an_engine_of_another_build_is_refused(engine, manifest):
    other = replace(manifest, engine_sha256="0" * 64)
    manifest_path(engine).write_text(to_sealed_json(other))
    with refuses("engine-damaged"):
        read_engine_manifest(engine)


def test_a_missing_engine_and_a_missing_manifest_have_different_codes(engine):
    with refuses("engine-not-found") as no_engine:
        read_engine_manifest(engine.with_name("other.engine"))
    assert "deploykit build-engine" in no_engine.value.fix
    manifest_path(engine).unlink()
    with refuses("manifest-not-found"):
        read_engine_manifest(engine)


def test_a_truncated_manifest_is_refused(engine):
    path = manifest_path(engine)
    whole = path.read_text().rstrip()
    for length in range(0, len(whole), 7):
        path.write_text(whole[:length])
        with refuses("manifest-damaged"):
            read_engine_manifest(engine)


MISSING = object()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        # Well within what a manifest may say, and not what this one said.
        ("compiler_version", "1.7.1.117"),
        ("build_seconds", 1.5),
        ("batches", [{"min": 1, "opt": 8, "max": 65}]),
        ("seal_sha256", "0" * 64),
        ("seal_sha256", MISSING),
        ("more", 1),
    ],
)
def test_a_modified_manifest_is_refused(engine, field, value):
    path = manifest_path(engine)
    fields = json.loads(path.read_text())
    fields = {**fields, field: value} if value is not MISSING else {**fields}
    if value is MISSING:
        del fields[field]
    path.write_text(json.dumps(fields))
    with refuses("manifest-damaged"):
        read_engine_manifest(engine)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("engine_sha256", MISSING),
        ("audit", MISSING),
        ("target", None),
        ("target", {"name": "T4"}),
        ("batches", [{"min": "1", "opt": 8, "max": 64}]),
        ("batches", []),
        ("input", {"name": "input", "dtype": "float32", "shape": 3}),
        ("model", {}),
        ("precision", "fp16"),
        ("precision", "int4"),
        ("build_seconds", "long"),
        ("int8", 0.875),
        ("int8", {"policy": "pointwise"}),
        ("int8", {"policy": "everything", "method": "max", "share": 0.5}),
        ("int8", {"policy": "pointwise", "method": "max", "share": 1.5}),
        ("int8", {"policy": "pointwise", "method": "max", "share": -0.1}),
        ("int8", {"policy": "pointwise", "method": "max", "share": 0.5, "left_out": "conv_head"}),
    ],
)
def test_a_sealed_manifest_with_invalid_content_is_refused(engine, field, value):
    path = manifest_path(engine)
    fields = {**json.loads(path.read_text()), field: value}
    del fields["seal_sha256"]
    path.write_text(to_sealed_json({name: each for name, each in fields.items() if each is not MISSING}))
    with refuses("manifest-damaged"):
        read_engine_manifest(engine)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe\x00\x01",
        b"null",
        b"5",
        b'"text"',
    ],
)
def test_garbage_is_refused(engine, content):
    manifest_path(engine).write_bytes(content)
    with refuses("manifest-damaged"):
        read_engine_manifest(engine)


def test_a_link_to_an_engine_finds_its_manifest(engine, manifest, tmp_path):
    link = tmp_path / "elsewhere" / "latest.engine"
    link.parent.mkdir()
    link.symlink_to(engine)
    assert read_engine_manifest(link) == manifest


@pytest.mark.parametrize("shape", [(), (3,), (3, 280)])
def test_images_without_three_dimensions_are_refused(engine, manifest, shape):
    """Sealed, as somebody's own program might write it."""
    fields = json.loads(to_json(manifest))
    fields["input"]["shape"] = shape
    manifest_path(engine).write_text(to_sealed_json(fields))
    with refuses("manifest-damaged"):
        read_engine_manifest(engine)


def test_an_unreadable_engine_is_refused(engine, monkeypatch):
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("deploykit.engine.manifest.file_sha256", refuse)
    with refuses("file-unreadable"):
        read_engine_manifest(engine)
