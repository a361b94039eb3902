"""`deploykit fit` from the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.bench import measure_network as measure
from deploykit.planning.measured_latency import MeasuredLatency
from deploykit.util.errors import DeployError
from deploykit.util.local_gpu import local_gpu

TARGET = ("fit", "--gpu", "T4", "--max-latency", "10ms")


def test_the_largest_phi_is_marked(run):
    lines = run(*TARGET).out.splitlines()
    marked = [line for line in lines if line.endswith("yes, the largest")]
    chosen = re.search(r"largest phi that fits: (\d)", "\n".join(lines))[1]
    assert [line.split()[0] for line in marked] == [chosen]


def test_a_gpu_named_twice_is_fitted_once(run):
    assert run("fit", "--gpu", "T4,Tesla T4,t4", "--max-latency", "10ms").out == run(*TARGET).out


def test_gpus_may_have_spaces_around_them(run, measured):
    spaced, plain = (
        run("fit", "--gpu", names, "--max-latency", "10ms").out for names in (" T4, L4 ", "T4,L4")
    )
    assert spaced == plain
    assert plain
    options = ("--family", "tiny.py", "--max-latency", "1000ms", "--phi-step", "7")
    assert run("fit", "--gpu", "T4, cpu", *options).status == 0


def test_an_unpublished_accuracy_is_reported_as_unknown(run):
    result = run(*TARGET, "--axis", "width", "--min-accuracy", "70%")
    first, second = result.out.splitlines()[2:4]
    assert first.endswith("yes, the largest")  # phi 0 is B0 on any axis
    assert second.endswith("no: accuracy unknown")


def test_a_gpu_without_int8_facts_is_compared_without_int8_and_a_note(run, tmp_path):
    facts = {"sm_count": 58, "boost_mhz": 2000, "memory_bandwidth_gb_s": 280, "tdp_w": 120}
    peaks = {"fp32_tflops": 29, "fp16_tensor_tflops": 120}
    lines = [f"{name} = {value}" for name, value in (facts | peaks).items()]
    (tmp_path / "mine.toml").write_text("\n".join(["[mine]", *lines]))
    options = ("--gpu", "mine", "--gpu-file", "mine.toml", "--max-latency", "10ms")
    result = run("fit", *options, "--precision", "best")
    assert result.status == 0
    assert "EfficientNet FP16 on mine" in result.out
    assert "INT8 was not compared" in result.err
    assert "int8_tensor_tops" in run("fit", *options, "--precision", "int8").err


def described(tmp_path, name, **texts):
    """A GPU as fast as a T4, except that its memory is three hundred times slower."""
    facts = {"sm_count": 40, "boost_mhz": 1590, "sustained_mhz": 900, "memory_bandwidth_gb_s": 1}
    facts |= {"tdp_w": 70, "fp32_tflops": 8.1, "fp16_tensor_tflops": 65} | texts
    lines = [f"{fact} = {value}" for fact, value in facts.items()]
    (tmp_path / "my.toml").write_text("\n".join([f'["{name}"]', *lines]))


@pytest.mark.parametrize(
    ("name", "aliases", "asked"),
    [
        ("Mine", '["Own 9000", "own"]', "own-9000"),
        ("A100 SXM4 40GB", "[]", "A100"),
        ("A100", "[]", "A100 SXM4 40GB"),
        ("A100", "[]", "NVIDIA A100-SXM4-40GB"),
        ("Mine", '["A100"]', "A100 40GB"),
    ],
)
def test_a_gpu_file_is_found_by_any_of_its_names(run, tmp_path, name, aliases, asked):
    described(tmp_path, name, aliases=aliases)
    result = run("fit", "--gpu", asked, "--gpu-file", "my.toml", "--max-latency", "10ms")
    assert result.status == 3, result.err  # an A100 holds that easily
    assert f"on {name}" in result.out
    assert "no GPU of my.toml" not in result.err
    both = run("fit", "--gpu", f"{name},{asked}", "--gpu-file", "my.toml", "--max-latency", "10ms")
    assert both.out == result.out


def test_a_gpu_file_does_not_change_other_gpus(run, tmp_path):
    described(tmp_path, "A100 80GB", aliases='["Mine"]')
    result = run("fit", "--gpu", "A100", "--gpu-file", "my.toml", "--max-latency", "10ms")
    assert result.status == 0
    assert "no GPU of my.toml, which has A100 80GB" in result.err


def test_records_without_a_match_get_a_note(run, tmp_path):
    (tmp_path / "records").mkdir()
    assert "No record matches a network" in run(*TARGET, "--records", "records").err


def test_several_gpus_get_a_line_each(run):
    result = run(
        "fit", "--gpu", "T4,L4,A100", "--max-latency", "5ms", "--batch", "auto", "--precision", "best"
    )
    assert result.status == 0
    lines = result.out.splitlines()[2:]
    assert [line.split()[0] for line in lines[:3]] == ["T4", "L4", "A100"]
    assert "L4: INT8, because FP16 ends at phi 3." in lines[3:]
    assert result.err.count("note: INT8 is predicted") == 1  # not one a GPU
    plain = json.loads(run("fit", "--gpu", "T4,L4", "--max-latency", "5ms", "--json").out)
    assert [each["fit"]["gpu"] for each in plain] == ["T4", "L4"]


def test_each_of_several_gpus_has_its_nearest_miss_advice_and_notes(run):
    result = run("fit", "--gpu", "T4,A100", "--max-latency", "1.3ms", "--axis", "depth")
    assert result.out.startswith("EfficientNet, depth alone: ")
    assert "T4: nothing fits; the nearest miss is phi 0: " in result.out
    assert "T4: --precision int8 is predicted to fit, for phi 0." in result.out
    assert "A100 SXM4 40GB: nothing" not in result.out
    assert "note: Depth alone cannot reach the work of phi 6" in result.err
    plain = json.loads(run("fit", "--gpu", "T4,A100", "--max-latency", "1.3ms", "--json").out)
    assert [(each["chosen_phi"], each["nearest_miss_phi"]) for each in plain] == [(None, 0), (0, None)]


@pytest.fixture
def measured(tiny, monkeypatch):
    """What was measured, in order."""
    began: list[str] = []
    really = MeasuredLatency.find_latency

    def find_latency(self, member, *, precision, batch):
        began.append(f"{self.title} {member.name}")
        return really(self, member, precision=precision, batch=batch)

    monkeypatch.setattr(MeasuredLatency, "find_latency", find_latency)
    monkeypatch.setattr(measure, "MIN_SECONDS", 0.01)
    return began


@pytest.mark.parametrize(
    ("gpus", "options", "code"),
    [
        ("cpu,RTX 5090", (), "gpu-facts-missing"),
        ("cpu,RTX 5090,T4", ("--precision", "best"), "gpu-facts-missing"),
        ("cpu,RTX 9999", (), "unknown-gpu"),
        ("cpu,local", (), "gpu-not-found"),
    ],
)
def test_a_wrong_gpu_is_refused_before_another_is_measured(run, measured, gpus, options, code):
    if "local" in gpus and local_gpu() is not None:
        pytest.skip("this machine has a GPU")
    result = run("fit", "--gpu", gpus, "--family", "tiny.py", "--max-latency", "1000ms", *options)
    assert (result.status, result.code) == (2, code)
    assert measured == []


def test_the_folder_is_used_for_measured_gpus_only(run, tmp_path, measured):
    options = ("--family", "tiny.py", "--max-latency", "1000ms", "--phi-step", "7", "--folder", "mine")
    result = run("fit", "--gpu", "cpu,T4", *options)
    assert result.status == 0, result.err
    assert [line.split()[0] for line in result.out.splitlines()[2:4]] == ["CPU", "T4"]
    assert len(list((tmp_path / "mine").glob("*.json"))) == len(measured) > 0
    assert not (tmp_path / "records").exists()
    nowhere = run("fit", "--gpu", "L4,T4", *options)
    assert nowhere.status == 2
    assert nowhere.code == "option-not-applicable"


@pytest.mark.parametrize(
    ("file", "head"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.html", b"<!doctype html>")]
)
def test_the_plot_has_the_format_of_its_file_name(run, tmp_path, file, head):
    assert run(*TARGET, "--plot", file).status == 0
    assert (tmp_path / file).read_bytes().startswith(head)


@pytest.mark.parametrize(
    ("file", "title"), [("a.png", ""), ("a.html", r"on Mine $\\x$ &lt;b&gt;, predicted")]
)
def test_a_gpus_name_in_a_plot_is_plain_text(run, tmp_path, file, title):
    name = r"Mine $\x$ <b>"
    own = (Path(__file__).parents[2] / "docs" / "fit.md").read_text("utf-8")
    own = own.partition("```toml\n")[2].partition("```")[0]
    Path("my.toml").write_text(own.replace('["Mine"]', f"['{name}']"))
    shown = run("fit", "--gpu", name, "--gpu-file", "my.toml", "--max-latency", "9ms", "--plot", file)
    assert shown.status == 0, shown.err  # as a formula it could not be drawn
    assert title in (tmp_path / file).read_text("utf-8", errors="replace")


def test_the_terminal_plot_has_a_line_per_phi_and_the_target(run):
    out = run(*TARGET, "--plot").out
    drawn = [line for line in out.splitlines() if "├" in line]
    assert [line.split()[0] for line in drawn] == list("01234567")
    filled = [line.split()[0] for line in drawn if "●" in line]
    assert filled == list("0123456789")[: len(filled)]
    assert {line.index("┊") for line in drawn if "┊" in line} == {drawn[0].index("┊")}


def test_nothing_fits_with_status_3_and_advice(run):
    result = run("fit", "--gpu", "T4", "--max-latency", "1.2ms")
    assert result.status == 3
    assert "nothing fits; the nearest miss is phi 0" in result.out
    assert "Predicted to fit, for phi 0:" in result.out


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (("--min-throughput", "1234567"), r": \d+ images/s \(target: 1234567\)\n"),
        (
            ("--max-latency", "1s", "--min-accuracy", "84.34%"),
            r": top-1 84\.30 % \(target: 84\.34 %\)\n",
        ),
        (("--max-latency", "1s", "--max-memory", "13.5MB"), r": 13\.\d+ MB \(limit: 13\.5 MB\)\n"),
    ],
)
def test_a_miss_is_printed_with_enough_digits(run, targets, sentence):
    assert re.search(sentence, run("fit", "--gpu", "T4", *targets).out)


def test_a_phi_that_may_fit_is_printed_with_its_target(run):
    by_rate, by_latency = (
        run("fit", "--gpu", "T4", *targets).out
        for targets in (("--min-throughput", "150"), ("--max-latency", "10ms"))
    )
    assert re.search(r"phi 5 may fit too: [\d.]+ ms expected, up to [\d.]+ ms possible;", by_latency)
    assert "may fit" not in by_rate
    by_rate = run("fit", "--gpu", "T4", "--min-throughput", "200").out
    assert re.search(r"phi 4 may fit too: 2\d\d images/s expected, down to 1\d\d images/s possible;", by_rate)
    alone = run("fit", "--gpu", "T4", "--min-throughput", "700").out
    assert re.search(r"phi 0 may fit: \d+ images/s expected, down to \d+ images/s possible;", alone)


def test_the_first_line_says_what_was_scaled(run):
    first, *_ = run("fit", "--gpu", "A100", "--max-latency", "3ms", "--axis", "depth").out.splitlines()
    assert first.startswith("EfficientNet, depth alone, FP16 on A100 SXM4 40GB, batch 1, predicted")


def test_fit_export_builds_the_engine(run, tmp_path):
    result = run(
        "fit", "--gpu", "T4", "--max-latency", "1.5ms", "--optimistic", "--precision", "best", "--export"
    )
    assert result.status == 0
    chosen = re.search(r"largest phi that fits: (\d)", result.out)[1]
    folder = tmp_path / "engines" / f"efficientnet-phi{chosen}"
    assert (folder / "model.onnx").is_file()
    assert list(folder.glob("*.engine"))


def test_the_json_of_an_export_has_its_files(run):
    result = run("fit", "--gpu", "T4", "--max-latency", "1.8ms", "--export", "--json")
    found = json.loads(result.out)
    assert found["chosen_phi"] == 0
    assert found["onnx"].endswith("efficientnet-phi0/model.onnx")
    assert found["engine"].endswith(".engine")


def test_an_engine_that_cannot_be_built_is_refused_before_the_export(run, tmp_path):
    result = run("fit", "--gpu", "H100", "--max-latency", "10ms", "--export")
    assert result.status == 2
    assert "H100" in result.err
    assert not list(tmp_path.iterdir())


SMALLEST = ("fit", "--gpu", "T4", "--max-latency", "1.8ms", "--export")  # phi 0


@pytest.mark.parametrize(
    "there",
    [
        ("export", "--phi", "0", "--num-classes", "10"),
        ("export", "--phi", "0", "--side", "64"),
        ("export", "--phi", "0", "--preprocess"),
    ],
)
def test_another_model_is_not_replaced(run, tmp_path, there):
    assert run(*there, "-o", "engines/efficientnet-phi0").status == 0
    model = tmp_path / "engines" / "efficientnet-phi0" / "model.onnx"
    before = model.read_bytes()
    result = run(*SMALLEST)
    assert result.status == 2
    assert result.code == "model-would-be-replaced"
    assert str(model.relative_to(tmp_path)) in result.err
    assert "largest phi that fits: 0" in result.out  # the answer is not lost either
    assert "nearest_miss_phi" in json.loads(run(*SMALLEST, "--json").out)
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_a_foreign_file_is_not_replaced(run, tmp_path):
    model = tmp_path / "engines" / "efficientnet-phi0" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"somebody else's")
    assert run(*SMALLEST).code == "model-would-be-replaced"
    assert model.read_bytes() == b"somebody else's"


def test_the_same_model_is_exported_again(run):
    first, second = run(*SMALLEST), run(*SMALLEST)
    assert (first.status, second.status) == (0, 0), second.err
    assert second.out == first.out


def test_the_answer_is_printed_even_if_the_plot_cannot_be_written(run, monkeypatch):
    def full(*_):
        raise DeployError(
            "fit.svg can't be written: No space left on device.",
            code="output-unwritable",
            fix="make room there",
        )

    monkeypatch.setattr("deploykit.planning.fit.plot.write_atomically", full)
    result = run(*TARGET, "--plot", "fit.svg")
    assert (result.status, result.out) == (2, run(*TARGET).out)
    found = json.loads(run(*TARGET, "--plot", "fit.svg", "--json").out)
    assert "chosen_phi" in found
    assert "plot" not in found


def test_the_json_of_the_other_precision_has_the_same_fields(run):
    found = json.loads(run(*TARGET, "--precision", "best", "--json").out)["fit"]
    candidates, alternatives = found["candidates"], found["alternative"]["candidates"]
    assert {each.keys() >= {"fits", "images_per_s"} for each in (*candidates, *alternatives)} == {True}
    assert candidates[0].keys() == alternatives[0].keys()
    assert found.keys() == found["alternative"].keys()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((), "stopped; no result was written"),
        (
            ("a.json",),
            "stopped; the measurements so far are in records (run the same command again to resume)",
        ),
    ],
)
def test_ctrl_c_prints_what_is_kept(run, tmp_path, monkeypatch, files, sentence):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("deploykit.cli.fit.fit_phi", interrupted)
    for name in files:
        (tmp_path / "records").mkdir()
        (tmp_path / "records" / name).touch()
    result = run("fit", "--gpu", "cpu", "--max-latency", "10ms")
    assert (result.status, result.err.strip()) == (130, sentence)


def test_predicting_imports_nothing_heavy():
    code = (
        "import sys; from deploykit.cli.main import cli; "
        "cli(['fit', '--gpu', 'T4', '--max-latency', '10ms'], standalone_mode=False); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "onnx", "onnxruntime", "matplotlib", "plotly"} & set(done.stdout.split())


def test_nothing_fits_if_no_network_is_accurate_enough(run):
    done = run("fit", "--gpu", "cpu", "--max-latency", "1s", "--min-accuracy", "95%")
    assert done.status == 3
    error, fix = done.err.splitlines()
    assert "the highest is 84.3 %" in error
    assert fix == "  fix: give --min-accuracy 84.3%"
