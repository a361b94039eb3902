"""GPUs that a user describes."""

import json
from pathlib import Path

import pytest

from deploykit.engine.manifest import read_manifest
from deploykit.errors import DeployError
from deploykit.fit.run import fit_phi
from deploykit.predict.gpu_file import read_gpu_file
from deploykit.predict.gpus import find_gpu

FACTS = {
    "compute_capability": '"8.9"',
    "sm_count": 58,
    "boost_mhz": 2000,
    "memory_bandwidth_gb_s": 280,
    "tdp_w": 72,
    "fp32_tflops": 29,
    "fp16_tensor_tflops": 120,
}


def written(path: Path, **changes) -> Path:
    """A GPU called Mine; a fact that is None is left out."""
    facts = {name: value for name, value in {**FACTS, **changes}.items() if value is not None}
    path.write_text("\n".join(['["Mine"]', *(f"{name} = {value}" for name, value in facts.items())]))
    return path


def test_a_gpu_of_ones_own_is_predicted_for(tmp_path, run):
    written(tmp_path / "my.toml")
    result = run("fit", "--gpu", "mine,L4", "--gpu-file", "my.toml", "--max-latency", "10ms")
    assert result.status == 0
    assert "Mine" in result.out
    (mine,), doubts = read_gpu_file(tmp_path / "my.toml")
    assert doubts == ()
    ours, theirs = (fit_phi(gpu, max_latency_ms=10).candidates[4].latency for gpu in (mine, find_gpu("L4")))
    assert theirs.expected_ms < ours.expected_ms < 1.2 * theirs.expected_ms  # it has a bit less of everything


def test_an_engine_is_built_for_a_gpu_of_ones_own(tmp_path, run):
    written(tmp_path / "my.toml")
    options = ("--gpu", "mine", "--gpu-file", "my.toml", "--max-latency", "2ms", "--export", "--json")
    result = run("fit", *options)
    assert result.status == 0, result.err
    engine = tmp_path / json.loads(result.out)["engine"]
    assert engine.name == "model.fp16.sm89.engine"
    assert read_manifest(engine).target.title == "Mine (SM89)"


@pytest.mark.parametrize(
    ("capability", "sentence"),
    [(None, "unknown compute capability"), ('"9.0"', "can't compile for Mine (SM90)")],
)
def test_a_gpu_of_ones_own_that_nobody_builds_for_is_refused_at_once(tmp_path, run, capability, sentence):
    written(tmp_path / "my.toml", compute_capability=capability)
    options = ("--gpu", "mine", "--gpu-file", "my.toml", "--max-latency", "10ms")
    assert run("fit", *options).status == 0
    result = run("fit", *options, "--export", "--plot", "fit.svg")
    assert result.status == 2
    assert sentence in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"memory_bandwidth_gb_s": 0.28}, "memory_bandwidth_gb_s of Mine is 0.28"),  # TB/s
        ({"memory_bandwidth_gb_s": 280_000}, "memory_bandwidth_gb_s of Mine is 280000"),  # MB/s
        ({"boost_mhz": 2}, "boost_mhz of Mine is 2"),  # GHz
        ({"fp16_tensor_tflops": 120_000}, "fp16_tensor_tflops of Mine is 120000"),  # GFLOPS
    ],
)
def test_a_unit_that_is_off_by_a_thousand_is_doubted(tmp_path, changes, sentence):
    _, doubts = read_gpu_file(written(tmp_path / "my.toml", **changes))
    assert len(doubts) == 1
    assert sentence in doubts[0]
    assert doubts[0].endswith("is that the unit?")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"memory_bandwidth_gb_s": -280}, "is -280, no finite number above 0"),
        ({"sm_count": 0}, "is 0, no finite number above 0"),
        ({"tdp_w": "nan"}, "is nan, no finite number above 0"),
        ({"memory_bandwidth_gb_s": "inf"}, "is inf, no finite number above 0"),
        ({"sm_count": 57.5}, "is 57.5, no whole number"),
        ({"tdp_w": "true"}, "is True, no finite number above 0"),
        ({"tdp_w": '"72 W"'}, "is '72 W', no finite number above 0"),
        ({"bandwidth": 280}, "nobody knows the fact bandwidth"),
        ({"compute_capability": 8.9}, "not described as a GPU is"),
        ({"compute_capability": '"sm_89"'}, "compute_capability of Mine is 'sm_89'"),
        ({"aliases": '"m"'}, "not described as a GPU is"),
    ],
)
def test_what_is_no_fact_is_refused(tmp_path, changes, sentence):
    with pytest.raises(DeployError) as caught:
        read_gpu_file(written(tmp_path / "my.toml", **changes))
    assert sentence in caught.value.problem


@pytest.mark.parametrize(("name", "known"), [("T4", "T4"), ("tesla t4", "T4"), ("A100", "A100 SXM4 40GB")])
def test_a_description_that_hides_a_known_gpu_is_said_to(tmp_path, name, known):
    path = written(tmp_path / "my.toml")
    path.write_text(path.read_text().replace("Mine", name))
    _, notes = read_gpu_file(path)
    assert notes == (f"{name} is taken as {path} describes it, not as the {known} that is known.",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "describes no GPU"),
        ("# nothing", "describes no GPU"),
        ("[Mine", "is no TOML"),
        ("sm_count = 3", "outside of a table"),
    ],
)
def test_a_file_without_gpus_is_refused(tmp_path, text, sentence):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(DeployError, match=sentence):
        read_gpu_file(path)
    with pytest.raises(DeployError, match="can't be read"):
        read_gpu_file(tmp_path / "none.toml")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DeployError, match="can't be read"):
        read_gpu_file(path)


def test_too_few_facts_are_listed(tmp_path):
    (mine,), _ = read_gpu_file(written(tmp_path / "my.toml", tdp_w=None, fp16_tensor_tflops=None))
    with pytest.raises(
        DeployError, match="Too little is known of the Mine for a prediction: fp16_tensor_tflops"
    ):
        fit_phi(mine, max_latency_ms=10)
