"""The command line as a whole."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from waiting import wait_for

from deploykit import __version__
from deploykit.cli.commands import COMMANDS
from deploykit.runtime import Engine

ROOT = Path(__file__).parents[2]


def test_the_three_commands_of_the_contract_work_in_this_order(run, tmp_path):
    assert run("export", "--phi", "3").status == 0
    assert run("build-engine", "--int8").status == 0
    fit = run("fit", "--gpu", "T4", "--max-latency", "10ms")
    assert fit.status == 0
    assert re.search(r"largest phi that fits: \d", fit.out)
    assert sorted(path.name for path in (tmp_path / "engines" / "efficientnet-phi3").iterdir()) == [
        "model.int8.portable.engine",
        "model.int8.portable.engine.json",
        "model.onnx",
    ]


def test_python_dash_m_is_the_same_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "deploykit", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout == f"deploykit, version {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(run, name):
    shown = run(name, "--help")
    assert shown.status == 0
    assert f"deploykit {name}" in shown.out.split("Example:")[1]
    assert "--json" in shown.out


def test_scale_prints_the_published_family(run):
    shown = run("scale").out
    assert re.search(r"^b7 +7 +3\.1 +2 +600 px +66\.35 M +37\.746 G +84\.3 %$", shown, re.MULTILINE)
    member = json.loads(run("scale", "--phi", "3", "--json").out)
    assert member == [
        {
            "member": "",
            "phi": 3.0,
            "depth": 1.4,
            "width": 1.2,
            "side_px": 300,
            "parameters": 12233232,
            "macs": 1827141392,
            "metric": "top-1",
            "accuracy": 0.816,
        }
    ]


def test_scale_interpolates_between_members(run):
    (member,) = json.loads(run("scale", "--phi", "2.5", "--json").out)
    assert 1.2 < member["depth"] < 1.4
    assert 1.1 < member["width"] < 1.2
    assert 260 < member["side_px"] < 300


def test_export_notes_that_weights_are_random(run):
    shown = run("export", "--phi", "0", "--side", "64")
    assert "weights are random" in shown.err
    assert re.search(r"difference from PyTorch: \S+ absolute, \S+ relative", shown.out)


def test_json_on_standard_output_is_json_alone(run):
    exported = json.loads(run("export", "--phi", "0", "--side", "64", "--json").out)
    assert exported["difference"]["relative"] < 1e-4
    built = json.loads(run("build-engine", "--int8", "--gpu", "cpu", "--json").out)
    assert built["manifest"]["precision"] == "int8"
    measured = json.loads(run("bench", built["path"], "--batch", "1,2", "--seconds", "0.1", "--json").out)
    assert [record["method"]["batch"] for record in measured["records"]] == [1, 2]
    assert all(len(record["latency_ms"]) >= 100 for record in measured["records"])
    fit = json.loads(run("fit", "--gpu", "T4", "--max-latency", "10ms", "--json").out)
    assert fit["chosen_phi"] == max(each["phi"] for each in fit["fit"]["candidates"] if each["fits"])
    gpus = json.loads(run("gpus", "--json").out)
    assert next(gpu for gpu in gpus if gpu["name"] == "T4")["sm"] == 75
    assert json.loads(run("doctor", "--json").out)["components"]


def test_inspect_shows_what_the_compiler_made_layer_by_layer(run):
    run("export", "--phi", "0", "--side", "64")
    run("build-engine", "--int8", "--gpu", "cpu")
    engine = "engines/efficientnet-phi0/model.int8.cpu.onnx"
    shown = run("inspect", engine)
    assert shown.status == 0
    assert re.search(r"^conv_head\.product +QGemm +INT8 +\d+\.\d %", shown.out, re.MULTILINE)
    assert re.search(r"^blocks\.6\.0\.conv_dw +Conv +FP32 +0\.1 % +depthwise", shown.out, re.MULTILINE)
    assert max(map(len, shown.out.split("\n\n")[1].splitlines())) <= 120
    assert "input, float32 (n, 3, 64, 64), n of 1 to 64" in shown.out
    assert "shorter side to 96 px (bicubic), centre 64 px, mean 0.485 0.456 0.406" in shown.out
    manifest = json.loads(run("inspect", engine, "--json").out)["manifest"]
    macs = {layer["precision"]: 0 for layer in manifest["audit"]["layers"]}
    for layer in manifest["audit"]["layers"]:
        macs[layer["precision"]] += layer["macs"]
    assert f"33 INT8 ({100 * macs['int8'] / sum(macs.values()):.1f} % of the work)" in shown.out
    for digest in (manifest["engine_sha256"], manifest["model"]["onnx_sha256"]):
        assert digest[:12] in shown.out


def test_replacing_an_engine_for_other_sizes_gets_a_note(run):
    run("export", "--phi", "0", "--side", "64")
    build = ("build-engine", "--gpu", "cpu")
    assert "Replacing" not in run(*build).err + run(*build).err
    assert "which accepts float32 (n, 3, 64, 64), n of 1 to 64; use -o" in run(*build, "--batch", "1,2,4").err


def test_calibrate_writes_ranges_that_the_int8_build_finds(run, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(generator.integers(0, 256, (80, 100, 3), np.uint8)).save(folder / f"{index}.png")
    run("export", "--phi", "0", "--side", "64")
    calibrated = run("calibrate", "--data", str(folder), "--method", "percentile")
    assert calibrated.status == 0
    assert "from 3 images" in calibrated.out
    assert [path.name for path in (tmp_path / "calibration").iterdir()] == ["efficientnet-phi0.ranges.json"]
    built = run("build-engine", "--int8", "--gpu", "cpu")
    assert built.status == 0
    assert "Ranges: calibration/efficientnet-phi0.ranges.json, from 3 images" in built.err


def test_bench_reports_percentiles_method_and_samples(run):
    run("export", "--phi", "0", "--side", "64")
    run("build-engine", "--gpu", "cpu")
    shown = run("bench", "engines/efficientnet-phi0/model.fp32.cpu.onnx", "--seconds", "0.2")
    assert shown.status == 0
    for part in ("p50", "p90", "p99", "images/s", "calls", "warm-up", "single-stream", "end-to-end"):
        assert part in shown.out


def test_an_engine_for_another_gpu_is_refused(run):
    run("export", "--phi", "0", "--side", "64")
    run("build-engine", "--gpu", "T4")
    shown = run("bench", "engines/efficientnet-phi0/model.fp16.sm75.engine")
    assert shown.status == 2
    assert shown.code == "engine-cannot-run"
    assert "T4 (SM75)" in shown.err


def test_fit_prints_the_nearest_miss_and_exits_with_3_if_nothing_fits(run):
    shown = run("fit", "--gpu", "T4", "--max-latency", "0.1ms")
    assert shown.status == 3
    assert re.search(r"nothing fits; the nearest miss is phi 0: \S+ ms \(target: 0.1 ms\)", shown.out)


@pytest.mark.parametrize("name", ["t4", "Tesla T4", "NVIDIA T4"])
def test_gpu_names_are_forgiving(run, name):
    assert "on T4, batch 1" in run("fit", "--gpu", name, "--max-latency", "10ms").out


def test_the_newest_of_several_exports_is_taken_and_named(run, tmp_path):
    run("export", "--phi", "0", "--side", "64")
    run("export", "--phi", "1", "--side", "64")
    older = tmp_path / "engines/efficientnet-phi0/model.onnx"
    os.utime(older, (1, 1))
    shown = run("build-engine", "--gpu", "cpu")
    assert "engines/efficientnet-phi1/model.onnx, the newest of 2" in shown.err
    assert "efficientnet-phi0" in run("build-engine", "--gpu", "cpu", "--phi", "0").out


def on_a_terminal(*arguments: str, folder: Path) -> str:
    """Return what a terminal shows, with progress bars, which other tests never draw."""
    keyboard, screen = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploykit", *arguments],
        cwd=folder,
        stdout=screen,
        stderr=screen,
        stdin=screen,
    )
    os.close(screen)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the program has ended
        while chunk := os.read(keyboard, 4096):
            shown += chunk
    os.close(keyboard)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


def test_progress_is_drawn_on_a_terminal(random_b0, tmp_path):
    model = str(random_b0.path)
    calibrated = on_a_terminal(
        "calibrate", "--onnx", model, "--data", "generated", "--images", "9", folder=tmp_path
    )
    assert re.search(r"calibrating.*7/7", calibrated)  # and two are held out
    assert re.search(r"choosing ranges.*\d+/\d+", calibrated)
    built = on_a_terminal("build-engine", "--onnx", model, "--gpu", "cpu", "-o", "b0.onnx", folder=tmp_path)
    assert "building" in built
    measured = on_a_terminal("bench", "b0.onnx", "--seconds", "0.5", folder=tmp_path)
    assert "measuring" in measured
    assert "images/s" in measured
    assert "largest phi" in on_a_terminal("fit", "--gpu", "T4", "--max-latency", "10ms", folder=tmp_path)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(random_b0, tmp_path, kind):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "deploykit",
            "build-engine",
            "--onnx",
            str(random_b0.path),
            "-o",
            "x/b0.engine",
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    libraries = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "tensorrt" in libraries.read_text() or process.poll() is not None)  # the build begins
    time.sleep(0.3)
    process.send_signal(kind)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert not any(tmp_path.rglob("*"))


def test_the_python_calls_do_what_the_commands_do(tmp_path, monkeypatch):
    import deploykit

    monkeypatch.chdir(tmp_path)
    exported = deploykit.export_onnx(0, side_px=64)
    built = deploykit.build_engine(precision="int8", gpu="cpu")
    record = deploykit.benchmark(built.path, seconds=0.1)
    assert exported.path == Path("engines/efficientnet-phi0/model.onnx")
    assert record.percentile_ms(50).value > 0
    with Engine.load(built.path) as engine:
        assert engine(np.zeros((2, 3, 64, 64), np.float32)).shape == (2, 1000)
    assert deploykit.fit_phi("T4", max_latency_ms=10).chosen is not None
