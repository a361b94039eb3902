"""Arrays of other libraries, on the host; test_gpu.py has those on a GPU."""

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refuses

from deploykit.engine.build import build_engine
from deploykit.runtime import Engine
from deploykit.runtime.arrays import DeviceArray, as_device_array, as_host_array, to_library_of

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)


@pytest.fixture(scope="module")
def built(random_b0, tmp_path_factory) -> Path:
    return build_engine(onnx=random_b0.path, gpu="cpu", output=tmp_path_factory.mktemp("e") / "e.onnx").path


def test_torch_tensors_are_taken_and_returned_without_a_copy():
    tensor = torch.from_numpy(IMAGES)
    assert as_host_array(tensor).ctypes.data == tensor.data_ptr()
    answer = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = to_library_of(tensor, answer)
    assert isinstance(given, torch.Tensor)
    assert given.data_ptr() == answer.ctypes.data


def test_numpy_arrays_are_used_unchanged():
    assert as_host_array(IMAGES) is IMAGES
    assert as_device_array(IMAGES) is None
    assert to_library_of(IMAGES, IMAGES) is IMAGES


def test_an_engine_returns_arrays_of_the_callers_library(built):
    with Engine.load(built, threads=1) as engine:
        expected = engine(IMAGES)
        answer = engine(torch.from_numpy(IMAGES))
    assert isinstance(expected, np.ndarray)
    assert isinstance(answer, torch.Tensor)
    np.testing.assert_array_equal(answer.numpy(), expected)


def test_submitted_images_give_the_same_result_as_a_call(built):
    with Engine.load(built, threads=1) as engine:
        futures = [engine.submit(IMAGES[:1]), engine.submit(torch.from_numpy(IMAGES[1:]))]
        answers = [np.asarray(future.result()) for future in futures]
        np.testing.assert_array_equal(answers, [engine(IMAGES[:1]), engine(IMAGES[1:])])


def test_an_error_in_submitted_images_comes_with_the_result(built):
    with Engine.load(built) as engine:
        future = engine.submit(IMAGES.astype(np.float64))
        with refuses("input-shape-mismatch"):
            future.result()


def test_closing_waits_for_submitted_calls(built):
    engine = Engine.load(built, threads=1)
    futures = [engine.submit(IMAGES) for _ in range(8)]
    engine.close()
    assert all(future.done() and future.result().shape == (2, 1000) for future in futures)


def test_a_stream_is_refused_for_images_on_the_host(built):
    with Engine.load(built) as engine, refuses("stream-not-applicable"):
        engine.submit(IMAGES, stream=0)


def test_an_engine_can_be_closed_in_a_futures_callback(built):
    engine = Engine.load(built, threads=1)
    closed = threading.Event()

    def close(_: object) -> None:
        engine.close()
        closed.set()

    engine.submit(IMAGES).add_done_callback(close)
    assert closed.wait(10)
    with refuses("engine-closed"):
        engine(IMAGES)


def test_submitting_to_a_closed_engine_is_refused_at_once(built):
    engine = Engine.load(built)
    engine.close()
    with refuses("engine-closed"):
        engine.submit(IMAGES)


class OfAUser(torch.Tensor):
    pass


def test_a_subclass_of_a_torch_tensor_gets_a_torch_tensor():
    tensor = torch.from_numpy(IMAGES).as_subclass(OfAUser)
    assert isinstance(to_library_of(tensor, IMAGES), torch.Tensor)


def test_threads_may_be_a_numpy_integer(built):
    with Engine.load(built, threads=np.int64(1)) as engine:
        assert engine(IMAGES).shape == (2, 1000)


@pytest.mark.parametrize("threads", [0, -1, 2.5, "a", 10**6])
def test_an_invalid_number_of_threads_is_refused(built, threads):
    with refuses("invalid-thread-count"):
        Engine.load(built, threads=threads)


@pytest.mark.parametrize("wrong", [[[1.0]], "images", None, 3])
def test_a_value_that_is_not_an_array_is_refused(built, wrong):
    with Engine.load(built) as engine, refuses("array-unsupported") as caught:
        engine(wrong)
    assert "DLPack" in caught.value.fix


def test_a_tensor_that_requires_gradients_is_refused_with_a_fix(built):
    with (
        Engine.load(built) as engine,
        refuses("array-unsupported") as caught,
    ):
        engine(torch.from_numpy(IMAGES).requires_grad_())
    assert "detach" in caught.value.fix


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 64, 64, dtype=torch.float64), torch.zeros(3, 64, 64)],
)
def test_tensors_with_the_wrong_shape_or_type_are_refused(built, wrong):
    with Engine.load(built) as engine, refuses("input-shape-mismatch"):
        engine(wrong)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 64, 64, dtype=torch.bfloat16), torch.zeros(2, 3).to_sparse()]
)
def test_tensors_that_numpy_cannot_represent_are_refused(built, wrong):
    with (
        Engine.load(built) as engine,
        refuses("array-unsupported") as caught,
    ):
        engine(wrong)
    assert "NumPy array" in caught.value.fix


@dataclass
class OnSomeGpu:
    """An array with a CUDA array interface; these tests never read its memory."""

    described: dict[str, Any]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.described


def described(**others) -> dict[str, Any]:
    return {"shape": (2, 3, 64, 64), "typestr": "<f4", "data": (4096, False), "version": 3, **others}


def test_an_array_on_the_gpu_is_described_by_its_interface():
    expected = DeviceArray(pointer=4096, shape=(2, 3, 64, 64), dtype="float32", stream=None)
    assert as_device_array(OnSomeGpu(described())) == expected
    packed = (3 * 64 * 64 * 4, 64 * 64 * 4, 64 * 4, 4)
    assert as_device_array(OnSomeGpu(described(strides=packed))) == expected
    assert as_device_array(OnSomeGpu(described(strides=None, stream=7))).stream == 7
    alone = described(shape=(1, 3, 64, 64), strides=(99, *packed[1:]))  # where axes of one lie doesn't matter
    assert as_device_array(OnSomeGpu(alone)).shape == (1, 3, 64, 64)
    assert as_device_array(OnSomeGpu(described(typestr="|u1"))).dtype == "uint8"


class OnTheSecondGpu(OnSomeGpu):
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1


def test_images_on_another_gpu_are_refused():
    with refuses("array-on-other-gpu") as caught:
        as_device_array(OnTheSecondGpu(described()))
    assert "CUDA_VISIBLE_DEVICES" in caught.value.fix


def test_a_buffer_of_bytes_holds_as_many_images_as_fit():
    raw = DeviceArray(pointer=4096, shape=(2 * 3 * 64 * 64 * 4,), dtype="int8", stream=None)
    assert raw.as_images((3, 64, 64), "float32") == replace(raw, shape=(2, 3, 64, 64), dtype="float32")
    assert raw.as_images((64, 64, 3), "uint8").shape == (8, 64, 64, 3)
    with refuses("input-shape-mismatch"):
        raw.as_images((3, 96, 96), "float32")


def test_a_gpu_array_that_is_not_contiguous_is_refused():
    with refuses("array-not-contiguous") as caught:
        as_device_array(OnSomeGpu(described(strides=(1, 2, 3, 4))))
    assert "contiguous" in caught.value.fix


def test_an_engine_on_the_cpu_refuses_an_array_on_the_gpu(built):
    with (
        Engine.load(built) as engine,
        refuses("array-on-gpu") as caught,
    ):
        engine(OnSomeGpu(described()))
    assert "to the host" in caught.value.fix
