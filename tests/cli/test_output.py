"""Tables that fit, errors as JSON, readers that leave, and completion."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.cli.commands import COMMANDS
from deploykit.cli.output import print_table

COLUMNS = ("name", "size", "what it is for")
ROWS = [("first", "1 MB", "a sentence of many words that is wider than the rest"), ("second", "22 MB", "few")]


def table(capsys, monkeypatch, columns: str | None) -> list[str]:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    print_table(COLUMNS, ROWS)
    return capsys.readouterr().out.splitlines()


def words(lines: list[str]) -> set[str]:
    return set(" ".join(lines).replace(":", " ").split())


def test_without_a_terminal_and_columns_a_table_is_as_wide_as_it_needs(capsys, monkeypatch):
    lines = table(capsys, monkeypatch, None)
    assert len(lines) == 3
    assert lines[1].endswith(ROWS[0][2])


@pytest.mark.parametrize("columns", ["", "0", "wide"])
def test_columns_that_are_no_width_are_ignored(capsys, monkeypatch, columns):
    assert table(capsys, monkeypatch, columns) == table(capsys, monkeypatch, None)


@pytest.mark.parametrize("columns", ["60", "50", "40", "30", "24"])
def test_a_table_fits_the_columns_and_nothing_is_cut(capsys, monkeypatch, columns):
    lines = table(capsys, monkeypatch, columns)
    assert max(map(len, lines)) <= int(columns)
    assert words(lines) == words(table(capsys, monkeypatch, None))


def test_a_narrow_table_is_a_block_of_lines_for_each_row(capsys, monkeypatch):
    lines = table(capsys, monkeypatch, "30")
    assert lines[:2] == ["name: first", "  size: 1 MB"]
    assert lines[lines.index("") + 1 :] == ["name: second", "  size: 22 MB", "  what it is for: few"]


@pytest.mark.parametrize("columns", [None, "50"])
@pytest.mark.parametrize("command", ["scale", "gpus", "families"])
def test_commands_print_their_tables_within_columns(run, monkeypatch, columns, command):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    shown = run(command)
    assert shown.status == 0
    if columns is not None and command != "families":  # which has addresses longer than that
        assert max(map(len, shown.out.splitlines())) <= int(columns)
    assert "…" not in shown.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("fit", "--gpu", "T4", "--max-latency", "10", "--json"), "unit-missing"),
        (("export", "--json"), "network-not-named"),
        (("fit", "--json", "--maxlatency", "10ms"), "usage"),
        (("exprot", "--json"), "usage"),
    ],
)
def test_with_json_an_error_is_json_too(run, arguments, code):
    shown = run(*arguments)
    assert shown.status == 2
    error = json.loads(shown.out)["error"]
    assert error.keys() == {"code", "problem", "fix"}
    assert error["code"] == code == shown.code
    assert shown.err == f"error: {error['problem']} [{code}]\n  fix: {error['fix']}\n"


def test_without_json_an_error_leaves_standard_output_empty(run):
    assert run("fit", "--gpu", "T4", "--max-latency", "10").out == ""


def deploykit(*arguments: str, folder: Path, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "deploykit", *arguments]
    return subprocess.Popen(command, cwd=folder, text=True, **options)  # type: ignore[call-overload]


def test_a_reader_that_leaves_loses_no_work_and_sees_no_traceback(tmp_path):
    options = ("--phi", "0", "--side", "32")
    process = deploykit("export", *options, folder=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()  # as `head` does, only earlier
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Error" not in err
    assert "weights are random" in err
    assert (tmp_path / "engines" / "efficientnet-phi0" / "model.onnx").is_file()


def test_a_reader_that_leaves_gets_the_exit_status_of_the_answer(tmp_path):
    arguments = ("fit", "--gpu", "T4", "--max-latency", "0.1ms")
    process = deploykit(*arguments, folder=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "Error" not in err


def complete(words: str, folder: Path) -> list[str]:
    """The completions that bash is given for a command line that ends with words."""
    typed = f"deploykit {words}"
    environment = {
        **os.environ,
        "_DEPLOYKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split(" ")) - 1),
    }
    code = "import sys; sys.argv=['deploykit']\ntry:\n from deploykit.cli.main import main; main()\n"
    code += "finally:\n print('loaded', *[name for name in sys.modules if name.startswith('deploykit.cli.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_commands_are_completed_without_being_loaded(tmp_path):
    *completions, loaded = complete("", tmp_path)
    assert [each.removeprefix("plain,") for each in completions] == list(COMMANDS)
    assert "deploykit.cli.export" not in loaded.split()
    *completions, _ = complete("se", tmp_path)
    assert completions == ["plain,sensitivity", "plain,search-scaling", "plain,serve"]


def test_options_are_completed_by_loading_their_command_alone(tmp_path):
    *completions, loaded = complete("fit --max-", tmp_path)
    assert completions == ["plain,--max-latency", "plain,--max-memory"]
    assert "deploykit.cli.fit" in loaded.split()
    assert "deploykit.cli.bench" not in loaded.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_help_says_how_to_switch_completion_on(run, shell):
    shown = run("--help").out
    assert f"_DEPLOYKIT_COMPLETE={shell}_source deploykit" in shown


def test_the_help_lists_every_command_once_in_its_group(run):
    shown = run("--help").out
    assert [line for line in shown.splitlines() if line[:1].isalpha()][1:] == [
        "Options:",
        *("Models:", "INT8:", "Engines:", "Measure:", "Decide:", "Serve:"),
    ]
    listed = shown[shown.index("Models:") : shown.index("Each command")].splitlines()
    names = [line.split()[0] for line in listed if line[2:3].isalpha() and line.startswith("  ")]
    assert names == list(COMMANDS)
