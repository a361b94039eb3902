"""Search the coefficient grid that compound scaling starts from."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import refuses
from waiting import wait_for

from deploykit.networks.scaling import Coefficients
from deploykit.planning.search.coefficient_grid import coefficient_grid, compute_work_factor
from deploykit.planning.search.search import search_scaling

ROOT = Path(__file__).parents[2]
# A command like a user's: it loads the file, prints a score from the depth, and logs each run.
SCORE = """
import os, sys, onnx
model = onnx.load(sys.argv[1])
open("runs.txt", "a").write(model.graph.name + "\\n")
print("epoch 1 of 1")
print(float(os.environ["DEPLOYKIT_DEPTH"]) - float(os.environ["DEPLOYKIT_WIDTH"]) / 100)
"""


@pytest.fixture
def family(workplace):
    """The network from the documentation, which is small and quick to build."""
    text = (ROOT / "docs" / "families.md").read_text("utf-8")
    Path("tiny.py").write_text(text.partition("```python\n")[2].partition("```")[0])
    Path("score.py").write_text(SCORE)
    return "tiny.py"


def score_command() -> str:
    return f"{sys.executable} score.py"


def test_the_grid_contains_the_coefficients_of_the_efficientnet_paper():
    grid = coefficient_grid(2)
    assert Coefficients(depth=1.2, width=1.1, side=1.15) in grid
    assert len(set(grid)) == len(grid) > 20


@pytest.mark.parametrize(("budget", "tolerance"), [(1.5, 0.02), (2, 0.05), (4, 0.1)])
def test_every_point_of_a_grid_meets_the_budget_and_shrinks_no_axis(budget, tolerance):
    for point in coefficient_grid(budget, tolerance=tolerance):
        assert abs(compute_work_factor(point) / budget - 1) <= tolerance
        assert min(point.depth, point.width, point.side) >= 1
    alone = {
        tuple(x > 1 for x in (p.depth, p.width, p.side)) for p in coefficient_grid(budget, tolerance=0.1)
    }
    assert {(True, False, False), (False, True, False), (False, False, True)} <= alone


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"budget": 1}, "invalid-budget"),
        ({"budget": 65}, "invalid-budget"),
        ({"budget": float("nan")}, "invalid-budget"),
        ({"budget": 2, "step": 0}, "invalid-grid-step"),
        ({"budget": 2, "step": float("nan")}, "invalid-grid-step"),
        ({"budget": 2, "step": 0.001}, "invalid-grid-step"),
        ({"budget": 2, "tolerance": 0}, "invalid-tolerance"),
        ({"budget": 2, "step": 0.9, "tolerance": 0.01}, "grid-empty"),
    ],
)
def test_arguments_without_a_grid_are_rejected(arguments, code):
    with refuses(code):
        coefficient_grid(**arguments)


def test_without_a_command_points_are_ranked_by_latency_at_equal_work():
    search = search_scaling("mobilenet-v2", budget=2, step=0.1, tolerance=0.1, gpu="T4")
    on = [point for point in search.points if not point.is_off_budget]
    assert list(search.points[: len(on)]) == on  # networks that rounding took off budget come last
    assert 0 < len(on) < len(search.points)
    assert all(0.8 <= point.macs / search.budget_macs <= 1.2 for point in on)
    assert [p.latency_at_budget_ms for p in on] == sorted(p.latency_at_budget_ms for p in on)
    assert search.budget_macs == 2 * search.family.network(search.family.base).macs
    for point in search.points:
        network = point.member.network()
        assert (point.macs, point.parameters) == (network.macs, network.parameter_count)
        assert point.latency_at_budget_ms == pytest.approx(point.latency_ms * search.budget_macs / point.macs)


def test_on_the_cpu_each_network_is_measured_once(family):
    search = search_scaling(family, budget=2, step=0.5, tolerance=0.2, gpu="cpu")
    assert search.is_measured
    latencies = {}
    for point in search.points:
        latencies.setdefault(point.member.network(), set()).add(point.latency_ms)
    assert all(len(found) == 1 for found in latencies.values())
    assert all(point.latency_ms > 0 for point in search.points)
    kept = sorted(Path("search").glob("*.json"))
    again = search_scaling(
        family, budget=2, step=0.5, tolerance=0.2, gpu="cpu", score_command=score_command()
    )
    assert {point.latency_ms for point in again.points} == {point.latency_ms for point in search.points}
    assert sorted(Path("search").glob("*.json")) == kept


def test_a_command_scores_every_network_once_and_is_not_repeated(family, run):
    arguments = ("search-scaling", "--family", family, "--step", "0.2", "--gpu", "T4", "--json")
    command = ("--score-command", score_command(), "--jobs", "2")
    first = run(*arguments, *command)
    assert first.status == 0
    points = json.loads(first.out)["points"]
    assert [point["score"] for point in points] == sorted((p["score"] for p in points), reverse=True)
    best = points[0]
    assert best["score"] == best["scale"]["depth"] - best["scale"]["width"] / 100
    runs = Path("runs.txt").read_text().splitlines()
    networks = {json.dumps([p["macs"], p["parameters"], p["scale"]["side_px"]]) for p in points}
    assert len(runs) == len(networks)
    again = run(*arguments, *command)
    assert json.loads(again.out) == json.loads(first.out)
    next(Path("search/scores").glob("*.json")).unlink()  # as if the search had been stopped before this one
    assert json.loads(run(*arguments, *command).out) == json.loads(first.out)
    assert len(Path("runs.txt").read_text().splitlines()) == len(runs) + 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import sys; sys.exit('no GPU today')", "status 1: no GPU today"),
        ("print('accuracy: 3')", "its last line is not a number: accuracy: 3"),
        ("print('nan')", "its last line is not a number: nan"),
        ("", "its last line is not a number: nothing was printed"),
    ],
)
def test_a_failing_command_is_reported_and_tried_again_next_time(family, run, script, reason):
    Path("score.py").write_text(script)
    arguments = ("search-scaling", "--family", family, "--step", "0.5", "--tolerance", "0.2", "--gpu", "T4")
    result = run(*arguments, "--score-command", score_command())
    assert result.status == 1
    assert reason in result.err
    Path("score.py").write_text(SCORE)
    assert run(*arguments, "--score-command", score_command()).status == 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--budget", "much"), "invalid-budget"),
        (("--score-command", "/no/such/program"), "score-command-failed"),
        (("--score-command", ""), "score-command-invalid"),
        (("--score-command", "a 'b"), "score-command-invalid"),
        (("--score-command", "true", "--jobs", "0"), "invalid-job-count"),
        (("--gpu", "GT9000"), "unknown-gpu"),
        (("--family", "vgg"), "unknown-family"),
    ],
)
def test_a_mistake_is_reported_by_its_code(family, run, options, code):
    result = run("search-scaling", "--family", family, *options)
    assert (result.status, result.code) == (2, code)
    assert "Traceback" not in result.err


def test_a_precision_that_does_not_exist_is_rejected(family, run):
    result = run("search-scaling", "--family", family, "--gpu", "V100", "--precision", "int4")
    assert result.status == 2
    assert "int4" in result.err


def test_a_damaged_score_file_is_rejected_by_name(family, run):
    arguments = ("search-scaling", "--family", family, "--step", "0.5", "--tolerance", "0.2", "--gpu", "T4")
    assert run(*arguments, "--score-command", score_command()).status == 0
    score = next(Path("search/scores").glob("*.json"))
    score.write_text(score.read_text().replace('"value": ', '"value": 1'))
    result = run(*arguments, "--score-command", score_command())
    assert (result.status, result.code) == (2, "score-invalid")
    assert str(score) in result.err


def test_ctrl_c_stops_the_commands_and_keeps_their_scores(family):
    Path("score.py").write_text(SCORE.replace("print(float", "import time; os.mkdir(f'at-{os.getpid()}'); "
                                              "time.sleep(600)\nprint(float"))  # fmt: skip
    search = subprocess.Popen(
        [sys.executable, "-m", "deploykit", "search-scaling", "--family", family, "--gpu", "T4",
         "--score-command", score_command(), "--jobs", "2"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(list(Path().glob("at-*"))) == 2)
    started = [int(path.name[3:]) for path in Path().glob("at-*")]
    search.send_signal(signal.SIGINT)
    _, err = search.communicate(timeout=30)
    assert search.returncode == 130
    assert "stopped; the results so far are in search" in err
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
