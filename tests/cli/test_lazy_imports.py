import subprocess
import sys
from dataclasses import replace

import pytest
from small_models import colour_blocks, colour_ranges

from deploykit.cli.commands import COMMANDS

HEAVY = frozenset({"torch", "onnx", "onnxruntime", "tensorrt_rtx", "numpy", "PIL", "safetensors"})


def loaded_by(program: str, folder) -> set[str]:
    """Top-level modules a fresh process has after running program, which ends as it likes."""
    tail = "finally:\n    import sys\n    print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    body = "\n".join(f"    {line}" for line in program.splitlines())
    result = subprocess.run(
        [sys.executable, "-c", f"try:\n{body}\n{tail}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(result.stdout.rpartition("loaded:")[2].split())


def command_line(*arguments: str) -> str:
    return f"import sys\nsys.argv = {['deploykit', *arguments]}\nfrom deploykit.cli.main import main\nmain()"


def test_help_loads_nothing_heavy(tmp_path):
    loaded = loaded_by(command_line("--help"), tmp_path)
    assert {"deploykit", "click"} <= loaded
    assert loaded & (HEAVY | {"rich", "cuda"}) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_own_help_loads_neither_torch_nor_a_compiler_nor_onnx(tmp_path, command):
    loaded = loaded_by(command_line(command, "--help"), tmp_path)
    assert "click" in loaded
    assert loaded & {"torch", "onnx", "onnxruntime", "tensorrt_rtx"} == set()


def test_a_prediction_needs_neither_torch_nor_onnx(tmp_path):
    loaded = loaded_by(command_line("fit", "--gpu", "T4", "--max-latency", "10ms"), tmp_path)
    assert "rich" in loaded  # it came to printing its table
    assert loaded & {"torch", "onnx", "onnxruntime", "tensorrt_rtx"} == set()


def test_the_family_is_printed_without_torch_or_onnx(tmp_path):
    loaded = loaded_by(command_line("scale"), tmp_path)
    assert "rich" in loaded
    assert loaded & {"torch", "onnx", "onnxruntime", "tensorrt_rtx"} == set()


def test_ranges_are_merged_without_torch_or_onnx(tmp_path):
    ranges = colour_ranges(colour_blocks(tmp_path / "model.onnx"))
    for name in ("a", "b"):
        replace(ranges, sources=(name,)).save(tmp_path / f"{name}.json")
    loaded = loaded_by(command_line("calibrate", "--merge", "a.json", "b.json", "-o", "c.json"), tmp_path)
    assert (tmp_path / "c.json").is_file()
    assert loaded & {"torch", "onnx", "onnxruntime", "tensorrt_rtx", "PIL"} == set()


def test_the_runtime_loads_neither_torch_nor_onnx_nor_the_command_line(tmp_path):
    loaded = loaded_by("import deploykit.runtime", tmp_path)
    assert {"deploykit", "numpy"} <= loaded
    assert loaded & {"torch", "onnx", "onnxruntime", "tensorrt_rtx", "click", "rich", "PIL"} == set()


def test_the_package_itself_loads_nothing(tmp_path):
    assert loaded_by("import deploykit", tmp_path) & (HEAVY | {"rich", "cuda", "click"}) == set()


def test_its_names_load_on_first_use(tmp_path):
    loaded = loaded_by("import deploykit\nassert deploykit.scale_for(0).side_px == 224", tmp_path)
    assert loaded & HEAVY == set()


def test_unknown_names_raise_attribute_errors():
    import deploykit

    assert all(getattr(deploykit, name) is not None for name in deploykit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        deploykit.nonsense  # noqa: B018  # reading it is the test


def test_this_test_would_see_a_heavy_import(tmp_path):
    assert "onnx" in loaded_by("import onnx.checker", tmp_path)
