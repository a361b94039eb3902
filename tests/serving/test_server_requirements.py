import re
from contextlib import nullcontext

import pytest
from refusals import refuses

from deploykit.serving.repository.config import config_schema, config_text, read_config
from deploykit.serving.repository.server_requirements import (
    default_body_limit,
    require_backends,
    require_body_limit,
)

MIB = 2**20


@pytest.fixture
def repository(tmp_path):
    def write(max_batch: int, dtype: str, dims: list[int]):
        config = config_schema().ModelConfig(max_batch_size=max_batch)
        config.input.add(name="input", data_type=config_schema().DataType.Value(dtype), dims=dims)
        (tmp_path / "b7").mkdir()
        (tmp_path / "b7" / "config.pbtxt").write_text(config_text(config))
        assert read_config(tmp_path / "b7" / "config.pbtxt") == config
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("max_batch", "dtype", "dims", "largest"),
    [
        (64, "TYPE_FP32", [3, 600, 600], 64 * 3 * 600 * 600 * 4 + MIB),
        (64, "TYPE_UINT8", [600, 600, 3], 64 * 3 * 600 * 600 + MIB),
        (1, "TYPE_FP32", [3, 224, 224], 64 * MIB),
        (256, "TYPE_FP32", [3, 1024, 1024], 1024 * MIB),
        (32, "TYPE_FP32", [3, -1, -1], 32 * 3 * 1024 * 1024 * 4 + MIB),
        (80, "TYPE_STRING", [1], 81 * MIB),
    ],
)
def test_the_default_limit_fits_the_largest_batch_within_bounds(repository, max_batch, dtype, dims, largest):
    assert default_body_limit(repository(max_batch, dtype, dims)) == largest


BITS = re.compile(r"TYPE_[A-Z]+([0-9]+)")


@pytest.mark.parametrize(
    "dtype", [each for each, _ in config_schema().DataType.items() if BITS.fullmatch(each)]
)
def test_every_type_takes_the_bits_in_its_name(repository, dtype):
    bits = int(BITS.fullmatch(dtype)[1])
    assert default_body_limit(repository(1, dtype, [100 * MIB])) == 100 * MIB * bits // 8 + MIB


def test_a_limit_under_one_image_is_refused(repository):
    models = repository(8, "TYPE_FP32", [3, 8, 8])
    require_body_limit(models, 768)
    with refuses("request-limit-too-small") as caught:
        require_body_limit(models, 767)
    assert "b7: its images have 768 bytes" in caught.value.problem


def test_encoded_images_may_have_any_size(repository):
    require_body_limit(repository(8, "TYPE_STRING", [1]), 1)


def test_an_empty_repository_needs_the_minimum(tmp_path):
    assert default_body_limit(tmp_path) == 64 * MIB


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ('backend: "python"', False),
        ('platform: "ensemble"', False),
        ('backend: "onnxruntime"', True),
        ('platform: "onnxruntime_onnx"', True),
        ('backend: "tensorrt" platform: "tensorrt_plan"', True),
    ],
)
def test_a_backend_that_pytriton_lacks_is_refused(tmp_path, said, refused):
    (tmp_path / "b7").mkdir()
    (tmp_path / "b7" / "config.pbtxt").write_text(said)
    expected = refuses("triton-backend-missing")
    with expected if refused else nullcontext():
        require_backends(tmp_path)
