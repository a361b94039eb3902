"""Device images and streams, over a stub driver; see test_gpu_runner.py."""

import sys
import types
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cuda_stub import driver
from cuda_stub.driver import OnDevice, count
from cuda_stub.loaded import CLASSES, TWO_OUTPUTS, expected, loaded, over_the_stub, whole_numbers
from refusals import refuses

from deploykit.runtime.arrays import as_device_array
from deploykit.runtime.tensorrt.execution_context import view_host_memory

pytestmark = pytest.mark.usefixtures("cuda_stub")


@pytest.mark.parametrize("producer", ["none", "legacy", "per thread", "own"])
@pytest.mark.parametrize("consumer", ["none", "own"])
@over_the_stub
def test_device_images_are_waited_for_and_give_device_outputs_without_a_copy(producer, consumer):
    images = whole_numbers(3)
    with loaded() as engine:
        streams = {"none": None, "legacy": 1, "per thread": 2, "own": driver.new_stream()}
        there, answer = OnDevice.of(images, stream=streams[producer]), OnDevice((3, CLASSES), np.float32)
        stream = driver.new_stream() if consumer == "own" else None
        copies, executions = count("copies"), count("executions")
        engine.run_on_device(there, answer, stream)
        assert count("copies") == copies
        if stream is not None:
            assert count("executions") == executions  # nobody has waited yet
            driver.synchronize(stream)
        assert count("executions") == executions + 1
        np.testing.assert_array_equal(answer.numpy(), expected(images))
        there.free()
        answer.free()
        for each in {stream, streams["own"]} - {None}:
            driver.destroy_stream(each)


@over_the_stub
def test_device_images_on_another_gpu_are_refused():
    with loaded() as engine:
        there = OnDevice.of(whole_numbers(2))
        driver.move_memory_to(1)
        with refuses("array-on-other-gpu"):
            engine.run(there)
        driver.move_memory_to(0)
        assert as_device_array(there).shape == (2, 3, 8, 8)
        there.free()


@pytest.mark.parametrize("stream", [0, 1, 2])
@over_the_stub
def test_default_streams_can_be_run_on(stream):
    images = whole_numbers(2)
    with loaded() as engine:
        there, answer = OnDevice.of(images), OnDevice((2, CLASSES), np.float32)
        engine.run_on_device(there, answer, stream)
        driver.synchronize(stream)
        np.testing.assert_array_equal(answer.numpy(), expected(images))
        there.free()
        answer.free()


@over_the_stub
def test_a_call_on_one_stream_is_waited_for_on_the_next():
    """All streams share the activation memory of an execution context."""
    batches = [whole_numbers(2, seed=seed) for seed in range(4)]
    with loaded() as engine:
        streams = [driver.new_stream() for _ in batches]
        there = [OnDevice.of(batch) for batch in batches]
        answers = [OnDevice((2, CLASSES), np.float32) for _ in batches]
        for at, stream in enumerate(streams):
            engine.run_on_device(there[at], answers[at], stream)
        engine.check(whole_numbers(5))
        for stream in reversed(streams):
            driver.synchronize(stream)
        for batch, answer in zip(batches, answers, strict=True):
            np.testing.assert_array_equal(answer.numpy(), expected(batch))
        for each in (*there, *answers):
            each.free()
        for stream in streams:
            driver.destroy_stream(stream)


@over_the_stub
def test_closing_waits_for_a_call_on_a_stream():
    images = whole_numbers(2)
    with loaded() as engine:
        there, answer = OnDevice.of(images), OnDevice((2, CLASSES), np.float32)
        stream = driver.new_stream()
        engine.run_on_device(there, answer, stream)
        engine.close()
        driver.synchronize(stream)
        np.testing.assert_array_equal(answer.numpy(), expected(images))
        there.free()
        answer.free()
        driver.destroy_stream(stream)


@pytest.mark.parametrize("by", ["call", "submit", "submit with a stream"])
@over_the_stub
def test_arrays_of_a_library_give_arrays_of_that_library(by):
    from cuda.core import Device

    library = types.ModuleType("cupy")
    array = type("ndarray", (OnDevice,), {"__module__": "cupy"})
    sys.modules["cupy"] = library

    def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        Device(0).set_current()  # as the CUDA runtime, which CuPy uses, does by itself
        return array(shape, dtype, stream=1)

    library.empty = empty
    images = whole_numbers(3)
    with loaded() as engine:
        there = array.of(images, stream=1)
        stream = driver.new_stream()
        answer = engine.run(there, by=by, stream=stream)
        driver.synchronize(stream)
        assert type(answer) is array
        np.testing.assert_array_equal(answer.numpy(), expected(images))
        there.free()
        answer.free()
        driver.destroy_stream(stream)


@over_the_stub
def test_several_outputs_of_device_images_stay_on_the_device():
    from cuda.core import Device

    library = types.ModuleType("cupy")
    array = type("ndarray", (OnDevice,), {"__module__": "cupy"})
    sys.modules["cupy"] = library

    def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        Device(0).set_current()
        return array(shape, dtype, stream=1)

    library.empty = empty
    images = whole_numbers(3)
    with loaded(TWO_OUTPUTS) as engine:
        there = array.of(images, stream=1)
        answers = engine.run(there)
        for name, classes in (("logits", CLASSES), ("more", 4)):
            np.testing.assert_array_equal(answers[name].numpy(), expected(images, classes))
            answers[name].free()
        there.free()


@pytest.mark.parametrize("by", ["call", "submit", "submit with a stream"])
@over_the_stub
def test_cuda_core_buffers_give_buffers(by):
    from cuda.core import Buffer, Device, LegacyPinnedMemoryResource

    images = whole_numbers(3)
    with loaded() as engine:
        device, stream = Device(), driver.new_stream()
        on_host = LegacyPinnedMemoryResource().allocate(images.nbytes)
        view_host_memory(on_host, images.shape, images.dtype)[...] = images
        there = device.memory_resource.allocate(images.nbytes, stream=device.default_stream)
        there.copy_from(on_host, stream=device.default_stream)
        answer = engine.run(there, by=by, stream=stream)
        driver.synchronize(stream)
        assert type(answer) is Buffer
        logits = OnDevice.at(int(answer.handle), (3, CLASSES), np.float32).numpy()
        np.testing.assert_array_equal(logits, expected(images))
        for each in (on_host, there, answer):
            each.close()
        driver.synchronize(1)
        driver.destroy_stream(stream)
