from dataclasses import asdict

import click

from deploykit.cli.output import json_option, print_json, print_table
from deploykit.engine.targets import AHEAD_OF_TIME_SMS
from deploykit.gpu_catalog.gpus import Gpu, known_gpus
from deploykit.planning.cost_model.cost_model import can_predict


@click.command(name="gpus")
@json_option
def command(as_json: bool) -> None:
    """List the known GPUs, and what deploykit can do for each from any machine.

    \b
    Example:
      deploykit gpus --json
    """
    if as_json:
        print_json(
            [
                {**asdict(gpu), "sm": gpu.sm, "builds": _builds(gpu), "predicts": can_predict(gpu)}
                for gpu in known_gpus()
            ]
        )
        return
    print_table(
        (
            "GPU",
            "architecture",
            "SM",
            "memory",
            "bandwidth",
            "FP16 tensor",
            "INT8 tensor",
            "build for",
            "predict",
        ),
        [
            (
                gpu.name,
                gpu.architecture,
                gpu.sm or "",
                _fact(gpu.memory_gb, "GB"),
                _fact(gpu.memory_bandwidth_gb_s, "GB/s"),
                _fact(gpu.fp16_tensor_tflops, "TFLOPS"),
                _fact(gpu.int8_tensor_tops, "TOPS"),
                "yes" if _builds(gpu) else "no",
                "yes" if can_predict(gpu) else "no",
            )
            for gpu in known_gpus()
        ],
    )


def _builds(gpu: Gpu) -> bool:
    return gpu.sm in AHEAD_OF_TIME_SMS


def _fact(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:g} {unit}"
