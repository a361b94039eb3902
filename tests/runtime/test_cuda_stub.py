"""The fork server that the tests over the stub driver share reports how each body ended."""

import ctypes
import sys

import pytest
from cuda_stub import driver
from cuda_stub.loaded import over_the_stub

pytestmark = pytest.mark.usefixtures("cuda_stub")


@over_the_stub
def crash():
    ctypes.string_at(0)


@over_the_stub
def fail(what):
    assert what == "nothing", f"{what} went wrong"


@over_the_stub
def leave_traces():
    driver.without_memory_pools()
    sys.modules["left by another test"] = sys


@over_the_stub
def find_no_traces():
    assert ctypes.c_long.in_dll(driver.library(), "stub_memory_pools").value == 1
    assert "left by another test" not in sys.modules


def test_a_body_that_crashes_fails_its_own_test_and_no_other():
    with pytest.raises(AssertionError, match="ended with -11") as caught:
        crash()
    assert "Segmentation fault" in str(caught.value)
    find_no_traces()


def test_a_body_that_fails_is_reported_with_its_message():
    with pytest.raises(AssertionError, match="everything went wrong"):
        fail(what="everything")
    fail(what="nothing")


def test_a_body_leaves_no_traces_in_the_next_one():
    leave_traces()
    find_no_traces()
