"""Progress without a terminal: a line every ten seconds."""

import re
import sys
import time

import pytest

from deploykit.cli import progress as module
from deploykit.cli.notes import Verbosity, collected_notes, set_verbosity
from deploykit.cli.progress import show_progress


@pytest.fixture
def often(monkeypatch):
    """Lines come after a twentieth of a second."""
    monkeypatch.setattr(module, "LOG_SECONDS", 0.05)


def test_long_work_logs_where_it_is(often, capsys):
    with show_progress("building") as progress:
        progress("calibrating", 3, 12)
        time.sleep(0.12)
        progress("compiling")
        time.sleep(0.12)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"building: calibrating, 3/12, \d+ s", lines[0])
    assert re.fullmatch(r"building: compiling, \d+ s", lines[-1])
    time.sleep(0.12)
    assert capsys.readouterr().err == ""  # it ended with the work


def test_fractions_are_shown_in_percent(often, capsys):
    with show_progress("measuring") as progress:
        progress("measuring", 0.25, 1)
        time.sleep(0.1)
    assert capsys.readouterr().err.startswith("measuring, 25 %, ")


def test_short_work_logs_nothing(capsys):
    with show_progress("building") as progress:
        progress("compiling")
    assert module.LOG_SECONDS == 10
    assert capsys.readouterr().err == ""


def test_quiet_work_logs_nothing(often, capsys):
    with collected_notes():
        set_verbosity(Verbosity.QUIET)
        with show_progress("building") as progress:
            progress("compiling")
            time.sleep(0.12)
    assert capsys.readouterr().err == ""


def test_a_failure_ends_the_lines(often, capsys):
    with pytest.raises(ValueError, match="no"), show_progress("building"):
        raise ValueError("no")
    time.sleep(0.12)
    assert capsys.readouterr().err == ""
    assert sys.stderr is not None
