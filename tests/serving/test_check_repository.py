"""Finding where a repository disagrees with its engines."""

import pytest
from damaged_repositories import described, edit, rewrite
from refusals import refuses

from deploykit.serving.repository.check import check_repository
from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository

NAMED = 'backend: "python" default_model_filename: "{}"'


PLANS = 'backend: "python" platform: "tensorrt_plan"'


@pytest.mark.parametrize(
    ("model", "before", "after", "problem"),
    [
        ("colours", 'name: "input"', 'name: "images"', "takes input FP32 (3, 8, 8); its"),
        ("colours", "dims: 8", "dims: 9", "takes input FP32 (3, 8, 8); its"),
        ("colours", "TYPE_FP32", "TYPE_FP16", "FP16 (3, 8, 8)"),
        ("colours", "max_batch_size: 32", "max_batch_size: 64", "batches of up to 32"),
        ("colours", "preferred_batch_size: 8", "preferred_batch_size: 48", "a preferred batch size of 48"),
        ("colours", 'name: "colours"', 'name: "roses"', "names the model 'roses'"),
        ("colours", "max_batch_size", "max_batch_sise", "[repository-config-invalid]"),
        ("colours", 'backend: "python"', NAMED.format("../x"), "[repository-path-escapes]"),
        ("colours", 'backend: "python"', NAMED.format("x"), "[repository-file-missing]"),
        (
            "colours",
            'backend: "python"',
            NAMED.format("model.cpu.engine"),
            "the model file model.py; its",
        ),
        (
            "colours",
            'backend: "python"',
            'backend: "nope"',
            "onnxruntime or python; its configuration says nope",
        ),
        (
            "colours",
            'backend: "python"',
            'backend: "onnxruntime"',
            "the model file model.cpu.engine; its",
        ),
        ("colours", 'backend: "python"', PLANS, "its configuration says python and tensorrt"),
        (
            "colours",
            "max_batch_size: 32",
            "max_batch_size: 0",
            "batches of up to 32; its configuration says 0",
        ),
        ("colours-decode", 'backend: "python"', PLANS, "its configuration says python and tensorrt"),
        ("colours-decode", 'backend: "python"', NAMED.format("../x"), "the model file model.py; its"),
        ("colours-decode", "max_batch_size: 32", "max_batch_size: 0", "its configuration says 0"),
        ("colours-image", '"colours-decode"', '"roses"', "needs the model roses, which is missing"),
        ("colours-image", 'key: "input"', 'key: "x"', "needs the tensor x of colours"),
    ],
)
def test_a_configuration_that_disagrees_is_found(models, model, before, after, problem):
    rewrite(models / model / "config.pbtxt", before, after)
    findings = check_repository(models).findings
    assert any(problem in described(each) for each in findings), findings


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("colours/config.pbtxt", "count: 1 -> count: 2"),
        ("colours/config.pbtxt", "max_batch_size: 32 -> max_batch_size: 32\nresponse_cache { enable: true }"),
        ("colours/config.pbtxt", "num_versions: 1 -> num_versions: 2"),
        ("colours/config.pbtxt", 'label_filename: "labels.txt" -> '),
        ("colours-decode/config.pbtxt", "count: 2 -> count: 4"),
    ],
)
def test_a_configuration_may_be_tuned(models, path, change):
    edit(change, models / path)
    assert check_repository(models).findings == ()


@pytest.mark.parametrize(
    ("before", "after", "problems"),
    [
        ('backend: "onnxruntime"', "", []),
        ('platform: "onnxruntime_onnx"', "", []),
        ('default_model_filename: "model.onnx"', "", []),
        ('backend: "onnxruntime"', 'backend: "python"', ["python and onnxruntime"]),
        (
            '"model.onnx"',
            '"model.onnx.json"',
            ["[manifest-not-found]", "the model file model.onnx; its"],
        ),
    ],
)
def test_equivalent_configurations_pass_and_wrong_ones_are_found(
    labelled_engine, tmp_path, before, after, problems
):
    models = tmp_path / "models"
    write_repository(models, [labelled_engine], ModelOptions(name="colours"))
    rewrite(models / "colours" / "config.pbtxt", before, after)
    findings = check_repository(models).findings
    assert len(findings) == len(problems)
    assert all(problem in described(found) for problem, found in zip(problems, findings, strict=True))


def test_a_missing_manifest_is_found_for_native_backends(labelled_engine, tmp_path):
    models = tmp_path / "models"
    write_repository(models, [labelled_engine], ModelOptions(name="colours"))
    (models / "colours" / "1" / "model.onnx.json").unlink()
    (finding,) = check_repository(models).findings
    assert finding.code == "manifest-not-found"
    assert "model.onnx.json" in finding.problem


def test_models_that_are_not_deploykits_are_ignored(models):
    tokens = models / "tokens"
    (tokens / "1").mkdir(parents=True)
    (tokens / "config.pbtxt").write_text('backend: "python"')
    (tokens / "1" / "model.py").write_text("class TritonPythonModel: ...\n")
    (tokens / "1" / "weights.onnx").touch()
    assert check_repository(models).findings == ()


@pytest.mark.parametrize("name", [".git", "lost+found", "photos"])
def test_a_folder_that_is_not_a_model_is_found(models, follow, name):
    (models / name).mkdir()
    (finding,) = check_repository(models).findings
    assert finding.code == "repository-folder-invalid"
    follow(finding.fix)
    assert check_repository(models).findings == ()


def test_an_altered_manifest_is_found(models):
    rewrite(models / "colours" / "1" / "model.cpu.engine.json", "build_seconds", "build_second")
    (finding,) = check_repository(models).findings
    assert finding.code == "manifest-damaged"


def test_links_out_of_a_model_are_found(models, tmp_path):
    (models / "colours" / "1" / "secret").symlink_to(tmp_path)
    (finding,) = check_repository(models).findings
    assert finding.code == "repository-path-escapes"
    assert str(models / "colours" / "1" / "secret") in finding.problem


def test_a_folder_with_an_invalid_model_name_is_found(models):
    (models / "colours").rename(models / "my colours")
    fix = f"rename {models / 'my colours'}, in its config.pbtxt and in ensembles that use it too"
    found = [each for each in check_repository(models).findings if each.model == "my colours"]
    assert [each.code for each in found] == ["invalid-model-name"]
    assert found[0].fix.startswith(fix)


@pytest.mark.parametrize(
    ("make", "code"), [(None, "file-not-found"), ("empty", "repository-empty"), ("other", "repository-empty")]
)
def test_a_folder_that_is_not_a_repository_is_refused(tmp_path, make, code):
    folder = tmp_path / "models"
    if make:
        folder.mkdir()
    if make == "other":
        (folder / "photos").mkdir()
    with refuses(code):
        check_repository(folder)
