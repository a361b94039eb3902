"""The grid search that compound scaling begins with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_for

from deploykit.networks.scaling import Coefficients
from deploykit.planning.search.coefficient_grid import coefficient_grid, compute_work_factor
from deploykit.planning.search.search import search_scaling
from deploykit.util.errors import DeployError

ROOT = Path(__file__).parents[2]
# A command like a user's: loads the file, says how deep the network is, and leaves a trace of each run.
SCORE = """
import os, sys, onnx
model = onnx.load(sys.argv[1])
open("runs.txt", "a").write(model.graph.name + "\\n")
print("epoch 1 of 1")
print(float(os.environ["DEPLOYKIT_DEPTH"]) - float(os.environ["DEPLOYKIT_WIDTH"]) / 100)
"""


@pytest.fixture
def family(workplace):
    """The documentation's own network: small, so that building it takes no time."""
    text = (ROOT / "docs" / "families.md").read_text("utf-8")
    Path("tiny.py").write_text(text.partition("```python\n")[2].partition("```")[0])
    Path("score.py").write_text(SCORE)
    return "tiny.py"


def score_command() -> str:
    return f"{sys.executable} score.py"


def test_efficientnets_grid_contains_the_papers_point():
    grid = coefficient_grid(2)
    assert Coefficients(depth=1.2, width=1.1, side=1.15) in grid
    assert len(set(grid)) == len(grid) > 20


@pytest.mark.parametrize(("budget", "tolerance"), [(1.5, 0.02), (2, 0.05), (4, 0.1)])
def test_every_point_of_a_grid_meets_the_budget_and_shrinks_nothing(budget, tolerance):
    for point in coefficient_grid(budget, tolerance=tolerance):
        assert abs(compute_work_factor(point) / budget - 1) <= tolerance
        assert min(point.depth, point.width, point.side) >= 1
    alone = {
        tuple(x > 1 for x in (p.depth, p.width, p.side)) for p in coefficient_grid(budget, tolerance=0.1)
    }
    assert {(True, False, False), (False, True, False), (False, False, True)} <= alone


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"budget": 1}, "not above 1"),
        ({"budget": 65}, "at most 64"),
        ({"budget": float("nan")}, "not above 1"),
        ({"budget": 2, "step": 0}, "makes no grid"),
        ({"budget": 2, "step": float("nan")}, "makes no grid"),
        ({"budget": 2, "step": 0.001}, "points"),
        ({"budget": 2, "tolerance": 0}, "tolerance of 0"),
        ({"budget": 2, "step": 0.9, "tolerance": 0.01}, "No point"),
    ],
)
def test_what_makes_no_grid_is_refused(arguments, match):
    with pytest.raises(DeployError, match=match):
        coefficient_grid(**arguments)


def test_without_a_command_points_are_ranked_by_latency_at_equal_work():
    search = search_scaling("mobilenet-v2", budget=2, step=0.1, tolerance=0.1, gpu="T4")
    on = [point for point in search.points if not point.is_off]
    assert list(search.points[: len(on)]) == on  # what rounding took off the budget comes last
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
    assert search.measured
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


def test_a_command_scores_every_network_once_and_is_not_asked_again(family, run):
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
    next(Path("search/scores").glob("*.json")).unlink()  # as if it had been stopped before that one
    assert json.loads(run(*arguments, *command).out) == json.loads(first.out)
    assert len(Path("runs.txt").read_text().splitlines()) == len(runs) + 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import sys; sys.exit('no GPU today')", "status 1: no GPU today"),
        ("print('accuracy: 3')", "its last line is no number: accuracy: 3"),
        ("print('nan')", "its last line is no number: nan"),
        ("", "its last line is no number: nothing was printed"),
    ],
)
def test_a_command_that_fails_is_told_of_and_tried_again(family, run, script, reason):
    Path("score.py").write_text(script)
    arguments = ("search-scaling", "--family", family, "--step", "0.5", "--tolerance", "0.2", "--gpu", "T4")
    result = run(*arguments, "--score-command", score_command())
    assert result.status == 1
    assert reason in result.err
    Path("score.py").write_text(SCORE)
    assert run(*arguments, "--score-command", score_command()).status == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--budget", "much"), "is no budget"),
        (("--score-command", "/no/such/program"), "can't be run"),
        (("--score-command", ""), "is empty"),
        (("--score-command", "a 'b"), "can't be split"),
        (("--score-command", "true", "--jobs", "0"), "score nothing"),
        (("--gpu", "GT9000"), "GT9000"),
        (("--family", "vgg"), "unknown-family"),
        (("--gpu", "V100", "--precision", "int4"), "int4"),
    ],
)
def test_mistakes_are_told_in_a_sentence(family, run, options, sentence):
    result = run("search-scaling", "--family", family, *options)
    assert result.status == 2
    assert sentence in result.err
    assert "Traceback" not in result.err


def test_a_damaged_score_is_refused_by_name(family, run):
    arguments = ("search-scaling", "--family", family, "--step", "0.5", "--tolerance", "0.2", "--gpu", "T4")
    assert run(*arguments, "--score-command", score_command()).status == 0
    score = next(Path("search/scores").glob("*.json"))
    score.write_text(score.read_text().replace('"value": ', '"value": 1'))
    result = run(*arguments, "--score-command", score_command())
    assert result.status == 2
    assert f"{score} is no score: it was altered." in result.err


def test_ctrl_c_ends_the_commands_too_and_keeps_their_scores(family):
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
    assert "stopped; what was found so far is in search" in err
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
