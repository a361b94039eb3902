"""Installation hints name this project's distribution, never the unrelated `deploykit` on PyPI."""

import re
import tomllib
from pathlib import Path

import pytest

from deploykit.util import install_hint as module
from deploykit.util.install_hint import DISTRIBUTION, install_hint

ROOT = Path(__file__).parents[2]
FOLDERS = ("deploykit", "docs", "examples", "benchmarks", "tests", "engines", "calibration")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cfg", ".sh", ".html", ""}
# `pip install deploykit` or `deploykit[extra]`, with any options and quotes between.
UNRELATED = re.compile(
    r"""(?:pipx?\d? install|uv add)\b[^\n`]*?[\s'"]deploykit(?![-\w/.])|\bdeploykit\[[a-z]"""
)


def names_the_unrelated_project(text: str) -> bool:
    return UNRELATED.search(text.replace("in a checkout of deploykit", "")) is not None


def hinting_files() -> list[Path]:
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return [path for path in (*ROOT.iterdir(), *inside) if path.is_file() and path.suffix in SUFFIXES]


def test_the_distribution_is_the_one_that_pyproject_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION != "deploykit"


def test_until_it_is_published_a_hint_names_a_checkout():
    assert install_hint("cpu", "serve").startswith("pip install '.[cpu,serve]'")
    assert install_hint(python="/opt/bin/python").startswith("/opt/bin/python -m pip install '.'")


def test_once_it_is_published_a_hint_names_the_distribution(monkeypatch):
    monkeypatch.setattr(module, "PUBLISHED", True)
    assert install_hint("gpu") == f"pip install '{DISTRIBUTION}[gpu]'"


@pytest.mark.parametrize(
    "hint",
    [
        "pip install deploykit",
        "pip install 'deploykit[cpu]'",
        'python -m pip install -U "deploykit"',
        "needs deploykit[gpu]",
    ],
)
def test_the_pattern_recognizes_the_unrelated_project(hint):
    assert names_the_unrelated_project(hint)


@pytest.mark.parametrize(
    "hint", [install_hint("cpu"), "pip install 'deploykit-trt[cpu]'", "deploykit doctor"]
)
def test_the_pattern_lets_right_hints_through(hint):
    assert not names_the_unrelated_project(hint)


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="looks at the source tree")
def test_no_file_of_the_project_tells_anyone_to_install_the_unrelated_project():
    own = Path(__file__).resolve()
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in hinting_files()
        if path.resolve() != own
        for number, line in enumerate(path.read_text("utf-8", errors="ignore").splitlines(), 1)
        if names_the_unrelated_project(line)
    ]
    assert found == []
