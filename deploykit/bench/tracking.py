"""Log records to Weights & Biases: the method as the configuration of a run, the figures as its summary."""

from pathlib import Path
from typing import Any

import msgspec

from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.layers.layer_time import sum_by_block
from deploykit.bench.record import PERCENTILES, Record
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

_SAMPLES = ("latency_ms", "warm_up_ms", "layers")  # logged as histograms and tables; complete in the record


def log_to_wandb(record: Record | LayerProfile, project: str, *, path: str | Path | None = None) -> str:
    """Log a record; WANDB_MODE, WANDB_DIR and wandb login decide where and how.

    Args:
        project: Created if it does not exist.
        path: The record's file, stored as an artifact of the run.

    Returns:
        The URL of the run, or its folder if it is offline.

    Raises:
        DeployError: wandb is not installed or not logged in, or cannot reach its server.
    """
    wandb = require("wandb", extra="wandb")
    try:
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        with wandb.init(
            project=project, name=record.name, config=_to_config(record), settings=settings
        ) as run:
            run.log(_to_plots(wandb, record))
            run.summary.update(_to_summary(record))
            if path is not None:
                artifact = wandb.Artifact(name=f"record-{run.id}", type="record")
                artifact.add_file(str(path))
                run.log_artifact(artifact)
            return str(Path(run.dir).parent if run.offline else run.url)
    except (wandb.Error, ValueError) as error:  # ValueError: invalid settings
        raise DeployError(
            f"Weights & Biases rejected the record: {str(error).splitlines()[0].rstrip('.')}.",
            code="wandb-failed",
            fix="run wandb login, or set WANDB_MODE=offline and run wandb sync later",
        ) from error


def _to_config(record: Record | LayerProfile) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {name: value for name, value in fields.items() if name not in _SAMPLES}


def _to_plots(wandb: Any, record: Record | LayerProfile) -> dict[str, Any]:
    if isinstance(record, Record):
        return {"latency_ms": wandb.Histogram(record.latency_ms)}
    columns = ["block", "ms", "macs", "bytes", "bound_ms"]
    rows = [
        [each.block, each.ms, each.macs, each.size_bytes, each.bound_ms]
        for each in sum_by_block(record.layers)
    ]
    return {"blocks": wandb.Table(columns=columns, data=rows)}


def _to_summary(record: Record | LayerProfile) -> dict[str, Any]:
    if not isinstance(record, Record):
        return {"layers_ms": sum(layer.ms for layer in record.layers), "remarks": list(record.run_caveats)}
    estimates = {f"p{percent}_ms": record.percentile_ms(percent) for percent in PERCENTILES}
    estimates["images_per_s"] = record.images_per_s
    ends = {
        f"{name}{end}": value
        for name, each in estimates.items()
        for end, value in (("", each.value), ("_low", each.low), ("_high", each.high))
        if value is not None  # an open end has no value
    }
    return {**ends, "remarks": list(record.caveats)}
