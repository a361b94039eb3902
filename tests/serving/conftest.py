"""One real Triton for all tests that send it requests."""

from collections.abc import Iterator

import pytest
from served_models import Served, served_models


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A running Triton. Tests that use it are marked integration, as it takes seconds to start."""
    with served_models(tmp_path_factory.mktemp("served")) as found:
        yield found
