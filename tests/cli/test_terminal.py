"""Control characters and interrupts at the terminal."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest
from records import engine, latency
from waiting import wait_for

from deploykit.bench.record_file import write_record
from deploykit.cli.output import print_table
from deploykit.cli.progress import show_progress
from deploykit.cli.terminal import visible, visibly

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode 图\tand\nlines", "plain, ünïcode 图\tand\nlines"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\rb\x08\x00\x7f", r"a\rb\x08\x00\x7f"),
        ("\x9b\u202e\u2066", r"\x9b\u202e\u2066"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert visible(text) == shown


def test_commands_escape_control_characters_in_names(run, tmp_path):
    paths = [
        write_record(latency(engine(name=f"{HOSTILE}{at}", sha256=str(at)), 4.0), tmp_path / "records")
        for at in range(2)
    ]
    for shown in (
        run("compare", *map(str, paths)),
        run("compare", *map(str, paths), "--json"),
        run("compare", HOSTILE, HOSTILE),
        run("compare", HOSTILE, HOSTILE, f"--{HOSTILE}"),
        run("report", "records", "--title", HOSTILE),
        run("bench", HOSTILE),
    ):
        assert shown.out + shown.err
        assert not set("\x1b\x07\x9b\u202e") & set(shown.out + shown.err)
    assert r"\x1b[2J" in run("compare", *map(str, paths)).out


def test_tables_and_progress_escape_control_characters(capsys, monkeypatch):
    with visibly():
        print_table(("name",), [(HOSTILE,)])
    assert capsys.readouterr().out.splitlines()[1].startswith(r"\x1b[2J")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with visibly(), show_progress("measuring") as progress:
        progress(HOSTILE)
        sys.stdout.write(f"{HOSTILE}\n")
        time.sleep(0.2)  # until it is drawn
    assert "\x1b]0" not in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()  # the spinner's own
    assert r"\x1b[2J" in terminal.getvalue()


def test_several_interrupts_stop_a_command_once(tmp_path):
    command = ("study", "--gpu", "cpu", "--phi", "0", "--precision", "fp32", "--seconds", "30", "-q")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploykit", *command],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: list(scratch.glob("*/*.onnx")))  # the first network, being built
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("stopped; 0 of 6 measurements are in records ")
    assert len(err.splitlines()) == 1
