"""The TensorRT runner on the real cuda-core over a stub driver; test_gpu.py needs a machine with a GPU.

Each test runs in a fork of a server process that has the stub; see cuda_stub.fork_server.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from cuda_stub import driver
from cuda_stub.driver import OnDevice, count
from cuda_stub.loaded import (
    CLASSES,
    MANIFEST,
    PIXELS,
    PROFILES,
    TENSORRT,
    TWO_OUTPUTS,
    Loaded,
    expected,
    loaded,
    over_the_stub,
    whole_numbers,
)
from refusals import refuses

from deploykit.runtime.tensorrt.execution_context import MAX_CUDA_GRAPHS

pytestmark = pytest.mark.usefixtures("cuda_stub")


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_batches_of_every_size_are_exact(cuda_graphs):
    with loaded(cuda_graphs=cuda_graphs) as engine:
        for images in (1, 8, 3, 64, 8, 1, 1):
            engine.check(whole_numbers(images, seed=images))


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_uint8_images_are_exact(cuda_graphs):
    with loaded(PIXELS, cuda_graphs=cuda_graphs) as engine:
        for images in (1, 8, 1):
            engine.check(whole_numbers(images, manifest=PIXELS))


@over_the_stub
def test_tensorrt_engines_are_exact():
    with loaded(TENSORRT) as engine:
        engine.check(whole_numbers(2))
        assert count("launches") == 1


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_several_outputs_are_returned_by_name_and_exact(cuda_graphs):
    with loaded(TWO_OUTPUTS, cuda_graphs=cuda_graphs) as engine:
        for images in (whole_numbers(3), whole_numbers(1), whole_numbers(3, seed=1)):
            answers = engine.run(images)
            assert list(answers) == ["logits", "more"]
            np.testing.assert_array_equal(answers["logits"], expected(images))
            np.testing.assert_array_equal(answers["more"], expected(images, 4))


@over_the_stub
def test_images_that_are_not_contiguous_are_exact():
    images = whole_numbers(8)
    with loaded() as engine:
        engine.check(images[::2])
        engine.check(images[:, ::-1])


@over_the_stub
def test_an_output_stays_valid_after_the_next_call_and_after_closing():
    with loaded() as engine:
        first = engine.run(whole_numbers(4, seed=1))
        engine.run(whole_numbers(4, seed=2))
    np.testing.assert_array_equal(first, expected(whole_numbers(4, seed=1)))


@over_the_stub
def test_a_graph_is_captured_once_per_shape_and_replayed_for_each_call():
    with loaded() as engine:
        for call in range(20):
            engine.check(whole_numbers(1 + call % 2, seed=call))
        assert count("captures") == 2
        assert count("launches") == 20
        assert engine.trt.executions == 4  # of each shape one before the capture and one captured
        assert count("executions") == 22  # of each shape the one before the capture


@over_the_stub
def test_without_cuda_graphs_each_call_executes():
    with loaded(cuda_graphs=False) as engine:
        for call in range(20):
            engine.check(whole_numbers(1 + call % 2, seed=call))
        assert count("captures") == count("launches") == 0
        assert engine.trt.executions == 20


@over_the_stub
def test_the_least_recently_used_shape_is_evicted_with_its_buffers():
    with loaded() as engine:
        for images in range(1, MAX_CUDA_GRAPHS + 1):
            engine.check(whole_numbers(images))
        full = driver.alive()
        assert (full["device"], full["pinned"], full["executables"]) == (
            2 * MAX_CUDA_GRAPHS,
            2 * MAX_CUDA_GRAPHS,
            MAX_CUDA_GRAPHS,
        )
        engine.check(whole_numbers(1))  # now 2 is the least recently used
        engine.check(whole_numbers(64))
        assert driver.alive() == full
        captures = count("captures")
        for images in (1, *range(3, MAX_CUDA_GRAPHS + 1), 64):
            engine.check(whole_numbers(images))
        assert count("captures") == captures
        engine.check(whole_numbers(2))
        assert count("captures") == captures + 1
        assert driver.alive() == full


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_eight_threads_get_correct_outputs_each_with_a_context_and_a_stream(cuda_graphs):
    with loaded(cuda_graphs=cuda_graphs) as engine:
        start = threading.Barrier(8)

        def many(thread: int) -> None:
            start.wait()
            for call in range(300):
                engine.check(whole_numbers(1 + (thread + call) % 4, seed=thread * 300 + call))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(many, range(8)))
        assert 1 <= count("contexts") <= 8
        assert count("streams") == count("contexts")


@over_the_stub
def test_concurrent_threads_use_different_contexts_and_streams():
    with loaded(cuda_graphs=False) as engine:
        engine.trt.before = threading.Barrier(8).wait  # which none passes before all eight execute
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(engine.check, [whole_numbers(1 + at) for at in range(8)]))
        assert count("contexts") == count("streams") == 8


@over_the_stub
def test_finished_threads_leave_no_contexts_behind():
    with loaded() as engine:
        for seed in range(50):
            thread = threading.Thread(target=engine.check, args=[whole_numbers(2, seed=seed)])
            thread.start()
            thread.join()
        assert count("contexts") <= 2


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_the_tightest_profile_is_set_only_when_it_changes(cuda_graphs):
    with loaded(PROFILES, cuda_graphs=cuda_graphs) as engine:
        for images in (1, 1, 8, 8, 64, 64):
            engine.check(whole_numbers(images))
        assert engine.trt.profiles == [1, 2]
        for images in (1, 8, 8, 64):
            engine.check(whole_numbers(images))
        # A graph keeps the profile it was captured with.
        assert engine.trt.profiles == ([1, 2] if cuda_graphs else [1, 2, 0, 1, 2])


@over_the_stub
def test_profiles_change_between_host_and_device_images():
    with loaded(PROFILES) as engine:
        there, answer = OnDevice.of(whole_numbers(8)), OnDevice((8, CLASSES), np.float32)
        stream = driver.new_stream()
        for _ in range(3):
            engine.check(whole_numbers(1))
            engine.run_on_device(there, answer, stream)
            engine.check(whole_numbers(64))
        driver.synchronize(stream)
        np.testing.assert_array_equal(answer.numpy(), expected(whole_numbers(8)))
        there.free()
        answer.free()
        driver.destroy_stream(stream)


@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("memory_pools", [True, False])
@over_the_stub
def test_memory_stays_flat_over_a_thousand_calls_and_is_freed(cuda_graphs, memory_pools):
    if not memory_pools:
        driver.without_memory_pools()
    with loaded(cuda_graphs=cuda_graphs) as engine:
        there, answer = OnDevice.of(whole_numbers(2)), OnDevice((2, CLASSES), np.float32)
        held = []
        for call in range(1000):
            engine.run(whole_numbers(1 + call % 4))
            engine.run_on_device(there, answer, None)
            if call in (10, 999):
                held.append(driver.alive() | {"bytes": count("device_bytes")})
        assert held[0] == held[1]
        there.free()
        answer.free()


@over_the_stub
def test_closing_frees_what_other_threads_allocated():
    with loaded() as engine:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(engine.check, [whole_numbers(1 + at) for at in range(16)]))
        closing = threading.Thread(target=engine.close)  # which has not used CUDA before
        closing.start()
        closing.join()
        assert not any(driver.alive().values()), driver.alive()


@over_the_stub
def test_a_closed_engine_can_be_closed_again_and_refuses_calls():
    with loaded() as engine:
        engine.check(whole_numbers(1))
        engine.close()
        engine.close()
        with refuses("engine-closed"):
            engine.run(whole_numbers(1))


@pytest.mark.parametrize("kind", ["device", "pinned"])
@over_the_stub
def test_without_memory_for_images_the_error_says_how_much_they_need(kind):
    images = np.zeros((64, 3, 512, 512), np.float32)  # 192 MiB
    large = replace(MANIFEST, input=replace(MANIFEST.input, shape=images.shape[1:]))
    with loaded(large) as engine:
        engine.check(images[:1])
        before = driver.alive()
        driver.limit(kind, 100 * 2**20)
        with refuses("run-out-of-memory") as caught:
            engine.run(images)
        assert "192 MiB" in caught.value.problem
        assert "OUT_OF_MEMORY" in caught.value.problem
        engine.check(images[:1])
        assert driver.alive() == before  # while the error is held
        engine.check(images[:2])


@over_the_stub
def test_without_memory_for_a_context_the_error_says_how_much_it_needs():
    with loaded() as engine:
        engine.trt.room = 0
        with refuses("run-out-of-memory") as caught:
            engine.run(whole_numbers(1))
        assert "fewer threads" in caught.value.fix
        engine.trt.room = 1
        engine.check(whole_numbers(1))


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_a_failed_execution_is_an_error_and_other_shapes_still_work(cuda_graphs):
    with loaded(cuda_graphs=cuda_graphs) as engine:
        engine.trt.refuses = lambda shape, capturing: shape[0] == 2
        engine.check(whole_numbers(1))
        with refuses("run-failed"):
            engine.run(whole_numbers(2))
        engine.check(whole_numbers(1))
        engine.check(whole_numbers(3))
        engine.trt.refuses = lambda shape, capturing: False
        engine.check(whole_numbers(2))


@over_the_stub
def test_a_shape_that_cannot_be_captured_is_executed():
    with loaded() as engine:
        engine.trt.is_capturable = False
        engine.check(whole_numbers(1))
        engine.check(whole_numbers(1, seed=1))
        assert count("captures") == count("launches") == 0
        engine.trt.is_capturable = True
        engine.trt.refuses = lambda shape, capturing: capturing
        engine.check(whole_numbers(2))
        engine.check(whole_numbers(2, seed=1))
        assert count("launches") == 0


@over_the_stub
def test_the_engine_reports_whether_all_calls_used_cuda_graphs():
    with loaded() as engine:
        engine.trt.refuses = lambda shape, capturing: capturing and shape[0] == 2
        engine.check(whole_numbers(1))
        assert engine.engine.used_cuda_graphs is True
        engine.check(whole_numbers(2))
        assert engine.engine.used_cuda_graphs is False
        for images in range(3, 3 + MAX_CUDA_GRAPHS):  # the shape that was none makes room for others
            engine.check(whole_numbers(images))
        assert engine.engine.used_cuda_graphs is False
    with loaded(cuda_graphs=False) as engine:
        engine.check(whole_numbers(1))
        assert engine.engine.used_cuda_graphs is False


@over_the_stub
def test_a_shape_whose_capture_is_invalidated_is_executed():
    with loaded() as engine:

        def wait_while_capturing(shape: tuple[int, ...], capturing: bool) -> bool:
            if shape[0] == 2 and capturing:
                driver.library().cuCtxSynchronize()  # which spoils it
            return shape[0] == 2 and capturing

        engine.trt.refuses = wait_while_capturing
        for images in (1, 2, 1, 2, 3):
            engine.check(whole_numbers(images))


@over_the_stub
def test_a_shape_that_the_engine_refuses_is_an_error():
    """For example an engine whose profiles differ from its manifest."""
    with loaded() as engine:
        engine.check(whole_numbers(1))
        with refuses("run-failed"):
            engine.runner.run(whole_numbers(65), 0)
        with refuses("run-failed"):
            engine.runner.run(whole_numbers(2), 7)
        engine.check(whole_numbers(3))


@over_the_stub
def test_closing_lets_a_running_call_finish():
    images = whole_numbers(2)
    with loaded(cuda_graphs=False) as engine, ThreadPoolExecutor(2) as pool:
        executes, go_on = threading.Event(), threading.Event()
        engine.trt.before = lambda: (executes.set(), go_on.wait())
        answer = pool.submit(engine.run, images)
        executes.wait()
        closing = pool.submit(engine.close)
        threading.Timer(0.2, go_on.set).start()
        closing.result()
        assert count("contexts") == 0
        np.testing.assert_array_equal(answer.result(), expected(images))


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_closing_ends_calls_of_many_threads_with_a_result_or_an_error(cuda_graphs):
    for _ in range(10):
        with loaded(cuda_graphs=cuda_graphs) as engine, ThreadPoolExecutor(4) as pool:

            def until_closed(thread: int, engine: Loaded = engine) -> None:
                for call in range(10_000):
                    engine.check(whole_numbers(1 + (thread + call) % 12, seed=call))

            ends = [pool.submit(until_closed, thread) for thread in range(4)]
            threading.Event().wait(0.05)
            engine.close()
            for end in ends:
                with refuses("engine-closed"):
                    end.result()
