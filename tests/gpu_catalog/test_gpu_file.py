"""GPUs that a user describes in a file."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refuses

from deploykit.engine.manifest import read_engine_manifest
from deploykit.gpu_catalog.gpu_file import read_gpu_file
from deploykit.gpu_catalog.gpus import find_gpu, known_gpus
from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.scaling import BASE
from deploykit.planning.cost_model.cost_model import predict_latency
from deploykit.planning.fit.fit import fit_phi

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
    """Write a GPU called Mine; a fact that is None is omitted."""
    facts = {name: value for name, value in {**FACTS, **changes}.items() if value is not None}
    path.write_text("\n".join(['["Mine"]', *(f"{name} = {value}" for name, value in facts.items())]))
    return path


def test_a_described_gpu_gets_predictions(tmp_path, run):
    written(tmp_path / "my.toml")
    result = run("fit", "--gpu", "mine,L4", "--gpu-file", "my.toml", "--max-latency", "10ms")
    assert result.status == 0
    assert "Mine" in result.out
    (mine,), doubts = read_gpu_file(tmp_path / "my.toml")
    assert doubts == ()
    ours, theirs = (fit_phi(gpu, max_latency_ms=10).candidates[4].latency for gpu in (mine, find_gpu("L4")))
    assert theirs.expected_ms < ours.expected_ms < 1.2 * theirs.expected_ms  # slightly less of every resource


def test_an_engine_is_built_for_a_described_gpu(tmp_path, tiny, run):
    written(tmp_path / "my.toml")
    options = ("--gpu", "mine", "--gpu-file", "my.toml", "--max-latency", "80us", "--export", "--json")
    result = run("fit", "--family", tiny, *options)
    assert result.status == 0, result.err
    engine = tmp_path / json.loads(result.out)["engine"]
    assert engine.name == "model.fp16.sm89.engine"
    assert read_engine_manifest(engine).target.title == "Mine (SM89)"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(None, "[gpu-facts-missing]"), ('"9.0"', "Mine (SM90)")],
)
def test_export_for_a_gpu_without_a_compiler_is_refused_at_once(tmp_path, run, capability, expected):
    written(tmp_path / "my.toml", compute_capability=capability)
    options = ("--gpu", "mine", "--gpu-file", "my.toml", "--max-latency", "10ms")
    assert run("fit", *options).status == 0
    result = run("fit", *options, "--export", "--plot", "fit.svg")
    assert result.status == 2
    assert expected in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"memory_bandwidth_gb_s": 0.28}, "memory_bandwidth_gb_s of Mine is 0.28"),  # TB/s
        ({"memory_bandwidth_gb_s": 280_000}, "memory_bandwidth_gb_s of Mine is 280000"),  # MB/s
        ({"boost_mhz": 2}, "boost_mhz of Mine is 2"),  # GHz
        ({"fp16_tensor_tflops": 120_000}, "fp16_tensor_tflops of Mine is 120000"),  # GFLOPS
    ],
)
def test_a_wrong_unit_gets_a_note(tmp_path, changes, expected):
    _, doubts = read_gpu_file(written(tmp_path / "my.toml", **changes))
    assert len(doubts) == 1
    assert expected in doubts[0]
    assert doubts[0].startswith("Check the unit:")


def test_a_fact_with_a_single_known_value_shows_that_value(tmp_path):
    """The clock under load is known only for a T4 among the GPUs of gpus.toml."""
    _, (doubt,) = read_gpu_file(written(tmp_path / "my.toml", sustained_mhz=2))
    assert "known GPUs have 900." in doubt


# Jetson Nano (Maxwell): 128 cores at 921.6 MHz, 25.6 GB/s, 0.472 TFLOPS in FP16 and half that in FP32.
NANO = {
    "compute_capability": '"5.3"',
    "sm_count": 1,
    "boost_mhz": 921.6,
    "memory_bandwidth_gb_s": 25.6,
    "tdp_w": 10,
    "fp32_tflops": 0.236,
    "fp16_tensor_tflops": 0.472,
}
PEAKS = ("memory_bandwidth_gb_s", "fp32_tflops", "fp16_tensor_tflops")


def times(factor, *facts):
    return NANO | {fact: NANO[fact] * factor for fact in facts}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (times(1000, *PEAKS), "imply 1.28e+05 CUDA cores per SM"),
        (times(1000, "fp32_tflops"), "fp32_tflops, sm_count and boost_mhz of Mine imply"),
        (times(128, "sm_count"), "imply 1 CUDA cores per SM"),  # cores instead of SMs
        (times(1000, "memory_bandwidth_gb_s"), "memory_bandwidth_gb_s of Mine is 1.08e+05 times its fp32"),
        (times(1000, "fp16_tensor_tflops"), "fp16_tensor_tflops of Mine is 2e+03 times its fp32_tflops"),
    ],
)
def test_a_wrong_unit_is_noticed_even_if_a_larger_gpu_has_such_a_value(tmp_path, facts, expected):
    _, doubts = read_gpu_file(written(tmp_path / "my.toml", **facts))
    assert len(doubts) == 1
    assert expected in doubts[0]


@pytest.mark.parametrize("gpu", known_gpus(), ids=lambda gpu: gpu.name)
def test_the_facts_of_known_gpus_get_no_notes(tmp_path, gpu):
    facts = {name: getattr(gpu, name) for name in (*FACTS, "int8_tensor_tops", "int8_dp4a_tops")}
    facts["compute_capability"] = f'"{gpu.compute_capability}"'
    assert read_gpu_file(written(tmp_path / "my.toml", **facts))[1] == ()


def test_a_gpu_smaller_than_the_known_ones_gets_no_notes(tmp_path):
    assert read_gpu_file(written(tmp_path / "my.toml", **NANO))[1] == ()


@pytest.mark.parametrize("end", [1e-6, 1e9])
def test_facts_at_the_limits_give_finite_predictions(tmp_path, end):
    numbers = {**dict.fromkeys(FACTS, end), "sm_count": max(1, int(end)), "compute_capability": '"8.9"'}
    for facts in (numbers, *({fact: value} for fact, value in numbers.items())):
        (mine,), _ = read_gpu_file(written(tmp_path / "my.toml", **facts))
        result = predict_latency(efficientnet(BASE), mine, precision="fp16", batch=8)
        assert 0 < result.low_ms < result.latency_ms < result.high_ms < math.inf


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"memory_bandwidth_gb_s": -280}, "is -280;"),
        ({"sm_count": 0}, "is 0;"),
        ({"tdp_w": "nan"}, "is nan;"),
        ({"memory_bandwidth_gb_s": "inf"}, "is inf;"),
        ({"sm_count": 57.5}, "is 57.5;"),
        ({"tdp_w": "true"}, "is True;"),
        ({"tdp_w": '"72 W"'}, "is '72 W';"),
        ({"boost_mhz": 1e308}, "is 1e+308; it must be from 1e-06 to 1e+09"),
        ({"tdp_w": "1e-320"}, "from 1e-06 to 1e+09"),
        ({"tdp_w": "0x" + "f" * 10_000}, "is an integer of 40000 bits;"),
        ({"bandwidth": 280}, "bandwidth of Mine is not a known fact"),
        ({"compute_capability": 8.9}, "$.compute_capability"),
        ({"compute_capability": '"sm_89"'}, "compute_capability of Mine is 'sm_89'"),
        ({"aliases": '"m"'}, "$.aliases"),
    ],
)
def test_an_invalid_fact_is_refused(tmp_path, changes, expected):
    with refuses("gpu-file-invalid") as caught:
        read_gpu_file(written(tmp_path / "my.toml", **changes))
    assert expected in caught.value.problem


@pytest.mark.parametrize(("name", "known"), [("T4", "T4"), ("tesla t4", "T4"), ("A100", "A100 SXM4 40GB")])
def test_a_description_that_overrides_a_known_gpu_gets_a_note(tmp_path, name, known):
    path = written(tmp_path / "my.toml")
    path.write_text(path.read_text().replace("Mine", name))
    _, notes = read_gpu_file(path)
    (note,) = notes
    assert note.startswith(f"The {name} of {path} replaces the built-in {known},")


def test_a_file_completes_the_facts_of_a_known_gpu(tmp_path, run):
    """gpus.toml lacks the power of an A10, which is 150 W in its datasheet."""
    (tmp_path / "my.toml").write_text('["A10"]\ntdp_w = 150\n')
    options = ("fit", "--gpu", "A10", "--max-latency", "10ms")
    alone, completed = run(*options), run(*options, "--gpu-file", "my.toml")
    assert alone.code == "gpu-facts-missing"
    assert completed.status == 0, completed.err
    assert "EfficientNet FP16 on A10," in completed.out
    (gpu,), _ = read_gpu_file(tmp_path / "my.toml")
    assert gpu == replace(find_gpu("A10"), tdp_w=150.0, source=str(tmp_path / "my.toml"), aliases=())


def test_a_fact_in_a_file_invalidates_known_facts_that_depend_on_it(tmp_path):
    """A T4's clock under load was observed at 70 W; a V100's INT8 peak is that of its CUDA cores."""
    path = tmp_path / "my.toml"
    path.write_text('["T4"]\ntdp_w = 35\n["V100"]\nint8_tensor_tops = 250\n')
    (t4, v100), _ = read_gpu_file(path)
    assert (t4.tdp_w, t4.sustained_mhz, t4.boost_mhz) == (35, None, find_gpu("T4").boost_mhz)
    assert (v100.int8_tensor_tops, v100.int8_dp4a_tops) == (250, None)


def test_an_alias_that_hides_a_known_gpu_gets_a_note(tmp_path):
    path = written(tmp_path / "my.toml", aliases='["mine", "tesla t4"]')
    _, notes = read_gpu_file(path)
    assert notes == (f"tesla t4 means the Mine of {path}, not the built-in T4.",)


@pytest.mark.parametrize(("name", "aliases"), [("mine", "[]"), ("NVIDIA Mi-ne", "[]"), ("Yours", '["MINE"]')])
def test_two_gpus_with_the_same_name_are_refused(tmp_path, name, aliases):
    path = written(tmp_path / "my.toml")
    path.write_text(f'{path.read_text()}\n["{name}"]\naliases = {aliases}\n')
    with refuses("gpu-file-invalid"):
        read_gpu_file(path)


def named(path: Path, name: str, **changes) -> Path:
    path.write_text(written(path, **changes).read_text().replace("Mine", name))
    return path


def test_names_in_any_script_are_distinguished(tmp_path, run):
    named(tmp_path / "my.toml", "\u65e5\u672c")
    options = ("--gpu-file", "my.toml", "--max-latency", "10ms")
    assert "on \u65e5\u672c" in run("fit", "--gpu", "\u65e5\u672c", *options).out
    for other in ("\u6f22\u5b57", "nvidia"):
        assert run("fit", "--gpu", other, *options).code == "unknown-gpu"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA", "'NVIDIA', which has no letters or digits besides a brand"),
        ("--", "'--', which has no letters or digits"),
        ("CPU", "'CPU', which means this machine"),
        ("local", "'local', which means this machine"),
        ("T4, mine", "'T4, mine', but commas separate GPUs"),
    ],
)
def test_a_name_that_gpu_options_cannot_use_is_refused(tmp_path, name, expected):
    for path in (
        named(tmp_path / "a.toml", name),
        written(tmp_path / "b.toml", aliases=f'["Own", "{name}"]'),
    ):
        with refuses("gpu-file-invalid") as caught:
            read_gpu_file(path)
        assert expected in caught.value.problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "describes no GPU"),
        ("# nothing", "describes no GPU"),
        ("[Mine", "is not valid TOML"),
        ("sm_count = 3", "outside a GPU"),
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("x = " + "9" * 5000, "is not valid TOML"),
    ],
)
def test_a_file_without_gpus_is_refused(tmp_path, text, expected):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with refuses("gpu-file-invalid") as caught:
        read_gpu_file(path)
    assert expected in caught.value.problem
    with refuses("file-unreadable"):
        read_gpu_file(tmp_path / "none.toml")
    path.write_bytes(b"\xff\xfe")
    with refuses("file-unreadable"):
        read_gpu_file(path)


def test_the_fix_for_facts_without_a_gpu_shows_where_the_name_goes(tmp_path):
    (tmp_path / "my.toml").write_text('compute_capability = "8.9"\n')
    with refuses("gpu-file-invalid") as caught:
        read_gpu_file(tmp_path / "my.toml")
    assert '["My GPU"]' in caught.value.fix


def test_missing_facts_are_listed(tmp_path):
    (mine,), _ = read_gpu_file(written(tmp_path / "my.toml", tdp_w=None, fp16_tensor_tflops=None))
    with refuses("gpu-facts-missing") as caught:
        fit_phi(mine, max_latency_ms=10)
    assert "fp16_tensor_tflops" in caught.value.problem
