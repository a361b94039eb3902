"""Expect a DeployError by its code."""

import pytest

from deploykit.util.errors import DeployError


def refuses(code: str) -> pytest.RaisesExc[DeployError]:
    """Expect a DeployError with this code; its sentence may be reworded freely."""
    return pytest.raises(DeployError, check=lambda error: error.code == code)
