"""Device and host time of a call, by the clocks of a stub driver; see test_gpu_runner.py."""

import numpy as np
import pytest
from cuda_stub import driver
from cuda_stub.driver import count
from cuda_stub.loaded import PROFILES, loaded, over_the_stub, whole_numbers

from deploykit.bench.scenarios import Clock
from deploykit.runtime.tensorrt.timing import EVENT_RESOLUTION_MS

pytestmark = pytest.mark.usefixtures("cuda_stub")


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_device_time_excludes_copies_and_the_host(cuda_graphs):
    driver.pace(launch_us=20, copy_us=30, model_us=120, gpu_copy_us=50, gpu_us=400)
    with loaded(cuda_graphs=cuda_graphs) as engine, engine.engine.time_calls(whole_numbers(8)) as call:
        assert [call.device_ms() for _ in range(20)] == pytest.approx([0.4] * 20)
        call.wait()
        assert [call.device_ms() for _ in range(5)] == pytest.approx([0.4] * 5)  # the first one too


@over_the_stub
def test_device_time_includes_waiting_if_the_host_enqueues_too_slowly():
    driver.pace(model_us=120, gpu_us=100)
    with loaded(cuda_graphs=False) as engine, engine.engine.time_calls(whole_numbers(8)) as call:
        assert [call.device_ms() for _ in range(5)] == pytest.approx([0.12] * 5)


@over_the_stub
def test_device_time_is_never_below_the_resolution_of_events():
    with loaded() as engine, engine.engine.time_calls(whole_numbers(1)) as call:
        assert call.device_ms() == EVENT_RESOLUTION_MS == 0.0005


@pytest.mark.parametrize(("cuda_graphs", "expected"), [(True, 0.02), (False, 0.12)])
@over_the_stub
def test_host_time_is_the_time_to_enqueue_without_waiting(cuda_graphs, expected):
    driver.pace(launch_us=20, copy_us=30, model_us=120, gpu_us=5000)
    clock = Clock(now_s=driver.host_s)
    with loaded(cuda_graphs=cuda_graphs) as engine, engine.engine.time_calls(whole_numbers(8)) as call:
        for _ in range(5):
            assert clock.time_ms(call.enqueue) == pytest.approx(expected)
            assert clock.time_ms(call.wait) == pytest.approx(5)


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_each_timed_call_executes_once_and_copies_nothing(cuda_graphs):
    with loaded(cuda_graphs=cuda_graphs) as engine:
        with engine.engine.time_calls(whole_numbers(8)) as call:
            copies, executions = count("copies"), count("executions")
            for _ in range(10):
                call.enqueue()
                call.wait()
            assert (count("copies"), count("executions")) == (copies, executions + 10)
            for _ in range(10):
                call.device_ms()
            call.wait()
            assert (count("copies"), count("executions")) == (copies, executions + 22)  # two around them
            assert count("launches") == (22 if cuda_graphs else 0)
        assert engine.engine.used_cuda_graphs is cuda_graphs
        engine.check(whole_numbers(8, seed=1))


@over_the_stub
def test_a_call_timer_uses_a_separate_context_and_frees_its_events():
    with loaded(PROFILES) as engine:
        engine.check(whole_numbers(8))
        before = driver.alive()
        with engine.engine.time_calls(whole_numbers(8)) as call:
            call.device_ms()
            engine.check(whole_numbers(8, seed=1))
            engine.check(whole_numbers(1))
            assert call.device_ms() > 0
            assert count("contexts") == 2
        assert driver.alive()["events"] == before["events"]
        engine.check(whole_numbers(64))


@over_the_stub
def test_a_shape_that_cannot_be_captured_is_timed_without_a_graph():
    driver.pace(launch_us=20, model_us=120, gpu_us=400)
    clock = Clock(now_s=driver.host_s)
    with loaded() as engine:
        engine.trt.is_capturable = False
        with engine.engine.time_calls(np.ascontiguousarray(whole_numbers(8)[::2])) as call:
            assert clock.time_ms(call.enqueue) == pytest.approx(0.12)
        assert engine.engine.used_cuda_graphs is False
