import re
from contextlib import nullcontext

import pytest

from deploykit.serving.repository.config import read_config, schema, to_text
from deploykit.serving.repository.server_requirements import largest_body, require_backends, require_room
from deploykit.util.errors import DeployError

MIB = 2**20


@pytest.fixture
def repository(tmp_path):
    def write(max_batch: int, dtype: str, dims: list[int]):
        config = schema().ModelConfig(max_batch_size=max_batch)
        config.input.add(name="input", data_type=schema().DataType.Value(dtype), dims=dims)
        (tmp_path / "b7").mkdir()
        (tmp_path / "b7" / "config.pbtxt").write_text(to_text(config))
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
def test_the_largest_batch_is_let_through_within_reason(repository, max_batch, dtype, dims, largest):
    assert largest_body(repository(max_batch, dtype, dims)) == largest


BITS = re.compile(r"TYPE_[A-Z]+([0-9]+)")


@pytest.mark.parametrize("dtype", [each for each, _ in schema().DataType.items() if BITS.fullmatch(each)])
def test_every_type_takes_the_bits_it_is_named_for(repository, dtype):
    bits = int(BITS.fullmatch(dtype)[1])
    assert largest_body(repository(1, dtype, [100 * MIB])) == 100 * MIB * bits // 8 + MIB


def test_a_limit_under_one_image_is_refused(repository):
    models = repository(8, "TYPE_FP32", [3, 8, 8])
    require_room(models, 768)
    with pytest.raises(DeployError, match="767 bytes hold no image for b7, which takes 768 bytes each"):
        require_room(models, 767)


def test_encoded_images_are_of_any_size(repository):
    require_room(repository(8, "TYPE_STRING", [1]), 1)


def test_an_empty_repository_asks_for_little(tmp_path):
    assert largest_body(tmp_path) == 64 * MIB


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
def test_a_backend_that_only_other_tritons_have_is_refused_whatever_names_it(tmp_path, said, refused):
    (tmp_path / "b7").mkdir()
    (tmp_path / "b7" / "config.pbtxt").write_text(said)
    expected = pytest.raises(DeployError, match=r"b7 is for Triton's (onnxruntime|tensorrt) backend")
    with expected if refused else nullcontext():
        require_backends(tmp_path)
