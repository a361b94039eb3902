"""One real Triton, and one engine with labels, for all tests that use them."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from damaged_repositories import LABELS, OPTIONS
from served import colours
from served_models import Served, served_models

from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A running Triton. Tests that use it are marked integration, as it takes seconds to start."""
    with served_models(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture(scope="session")
def labelled_engine(tmp_path_factory) -> Path:
    return colours(tmp_path_factory.mktemp("engine"), labels=LABELS)


@pytest.fixture
def models(labelled_engine, tmp_path) -> Path:
    write_repository(tmp_path / "models", [labelled_engine], OPTIONS)
    return tmp_path / "models"


@pytest.fixture
def follow(labelled_engine):
    """Follow a fix: move or remove folders, and write the repository."""

    def do(fix: str) -> None:
        if folder := re.search(r"(?:move|remove) (.+?)( out of|,? elsewhere|,? then|$)", fix):
            for each in re.split(", | and ", folder[1]):
                shutil.rmtree(each)
        if command := re.search(
            r"deploykit serve --triton (\S+) ENGINE --name (\S+)( --backend python)?", fix
        ):
            backend = "python" if command[3] else None
            write_repository(command[1], [labelled_engine], ModelOptions(name=command[2], backend=backend))
        assert folder or command, fix

    return do
