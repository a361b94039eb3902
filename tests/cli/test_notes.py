"""What is printed beside an answer: notes, and how many."""

import logging
import sys

import pytest

from deploykit.cli.notes import Verbosity, collected_notes, note, print_notes_at_once, set_verbosity


def printed(capsys, *sentences, important=(), verbosity=Verbosity.NORMAL) -> list[str]:
    with collected_notes():
        set_verbosity(verbosity)
        for sentence in sentences:
            note(sentence)
        for sentence in important:
            note(sentence, important=True)
        sys.stdout.write("the answer\n")
        assert capsys.readouterr().err == ""  # notes come after the answer
    return capsys.readouterr().err.splitlines()


def test_at_most_three_notes_are_printed(capsys):
    assert printed(capsys, "A 1.", "B 2.", "C 3.") == ["note: A 1.", "note: B 2.", "note: C 3."]
    shown = printed(capsys, "A 1.", "B 2.", "C 3.", "D 4.", "E 5.")
    assert shown == ["note: A 1.", "note: B 2.", "note: C 3.", "note: 2 more notes: -v shows them"]


def test_all_notes_are_printed_with_verbose(capsys):
    assert len(printed(capsys, *map(str, range(9)), verbosity=Verbosity.VERBOSE)) == 9


def test_no_notes_are_printed_when_quiet(capsys):
    assert printed(capsys, "A.", important=["B."], verbosity=Verbosity.QUIET) == []


def test_notes_of_different_kinds_are_preferred(capsys):
    skipped = [f"Left out: {name}.png" for name in "abcd"]
    shown = printed(capsys, *skipped, "Using all 5 images.", "Ranges are old.")
    assert shown == [
        "note: Left out: a.png",
        "note: Using all 5 images.",
        "note: Ranges are old.",
        "note: 3 more notes: -v shows them",
    ]


def test_important_notes_are_always_among_them(capsys):
    shown = printed(capsys, "A 1.", "B 2.", "C 3.", "D 4.", important=["Predicted.", "Random."])
    assert shown[:2] == ["note: Predicted.", "note: Random."]
    assert shown[-1] == "note: 1 more note: -v shows it"


def test_a_repeated_note_is_printed_once(capsys):
    assert printed(capsys, "A.", "A.", "A.", "A.") == ["note: A."]


def test_the_librarys_warnings_are_notes(capsys):
    with collected_notes():
        logging.getLogger("deploykit.engine").warning("The timing cache is %s.", "full")
    assert capsys.readouterr().err == "note: The timing cache is full.\n"


def test_notes_are_printed_before_an_error(capsys):
    def fail() -> None:
        with collected_notes():
            note("A.")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert capsys.readouterr().err == "note: A.\n"


def test_a_server_prints_later_notes_at_once(capsys):
    with collected_notes():
        note("A.")
        print_notes_at_once()
        assert capsys.readouterr().err == "note: A.\n"
        note("B.")
        assert capsys.readouterr().err == "note: B.\n"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [("-q", "export"), ("export", "-q")])
def test_quiet_works_before_and_after_the_command(run, arguments):
    shown = run(*arguments, "--phi", "0", "--side", "32")
    assert shown.status == 0
    assert shown.out
    assert shown.err == ""


@pytest.mark.parametrize("arguments", [("-v", "calibrate"), ("calibrate", "-v")])
def test_verbose_works_before_and_after_the_command(int8_folder, run, arguments):
    (int8_folder / "bad").mkdir()
    for name in "abcdef":
        (int8_folder / "bad" / f"{name}.png").write_bytes(b"no image")
    good = next((int8_folder / "flat").rglob("*.png"))
    (int8_folder / "bad" / "z.png").write_bytes(good.read_bytes())
    options = ("--onnx", "model.onnx", "--data", "bad", "--skip-bad", "--method", "max", "-o", "r.json")
    assert run(*arguments, *options).err.count("note: ") >= 6
    assert run("calibrate", *options).err.count("note: ") == 4
