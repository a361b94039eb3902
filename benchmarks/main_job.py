"""Times the main job's steps, beside PyTorch's own exporters.

    python benchmarks/main_job.py

Each command runs as a process of its own, imports included, in turn with its peers; figures are
medians of wall-clock seconds. Ratios hold better than seconds from one machine to the next.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 3
PHIS = (3, 7)

TORCH_EXPORT = """
import sys, torch
from deploykit.networks.export import prepare_export
from deploykit.networks.torch_module import build_module
network, weights, _ = prepare_export(float(sys.argv[1]))
images = torch.randn(2, *network.input)
torch.onnx.export(
    build_module(network, weights), (images,), sys.argv[2], opset_version=20,
    input_names=["input"], output_names=["logits"], {how}
)
"""
PEERS = {
    "deploykit export": None,
    "torch.onnx.export, dynamo": """
        dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("batch")},)""",
    "torch.onnx.export, TorchScript": """
        dynamo=False, dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}}""",
}


def main() -> None:
    for phi in PHIS:
        _report(f"export of phi {phi}", {name: _exporter(phi, how) for name, how in PEERS.items()})
    _report("--help", {"deploykit --help": _deploykit("--help")})
    fit = ("fit", "--gpu", "T4", "--max-latency", "10ms")
    _report("fit, predicted", {f"deploykit {' '.join(fit)}": _deploykit(*fit)})
    for phi in PHIS:
        with tempfile.TemporaryDirectory() as folder:
            model = str(Path(folder, "model.onnx"))
            _run([*CLI, "export", "--phi", str(phi), "-o", model])
            builds = {
                f"deploykit build-engine --{precision} --gpu {gpu}": _deploykit(
                    "build-engine", f"--{precision}", "--gpu", gpu, "--onnx", model
                )
                for gpu in ("T4", "L4")
                for precision in ("fp16", "int8")
            }
            _report(f"build of phi {phi}", builds)


CLI = (sys.executable, "-m", "deploykit")


def _deploykit(*arguments: str) -> Callable[[], float]:
    return lambda: _run([*CLI, *arguments])


def _exporter(phi: int, how: str | None) -> Callable[[], float]:
    def export() -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "model.onnx"))
            if how is None:
                return _run([*CLI, "export", "--phi", str(phi), "-o", path])
            return _run([sys.executable, "-c", TORCH_EXPORT.replace("{how}", how), str(phi), path])

    return export


def _run(command: list[str]) -> float:
    """Seconds a process took; its failure is ours."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - start


def _report(title: str, contenders: dict[str, Callable[[], float]]) -> None:
    """Runs the contenders in turn, so that a drift of the machine meets all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            seconds[name].append(run())
    first = statistics.median(next(iter(seconds.values())))
    print(f"\n{title} (median of {ROUNDS})")
    for name, samples in seconds.items():
        median = statistics.median(samples)
        print(f"  {name:52} {median:7.2f} s   {median / first:5.2f} x", flush=True)


if __name__ == "__main__":
    main()
