"""Records in Weights & Biases, a run each: what was measured is its configuration, figures its summary."""

from pathlib import Path
from typing import Any

import msgspec

from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.layers.layer_time import sum_by_block
from deploykit.bench.record import PERCENTILES, Record
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

_SAMPLES = ("latency_ms", "warm_up_ms", "layers")  # logged as histograms and tables, and whole in the record


def log_to_wandb(record: Record | LayerProfile, project: str, *, path: Path | None = None) -> str:
    """Logs a record; where and how is the user's own setting (WANDB_MODE, WANDB_DIR, wandb login).

    Args:
        project: created where it is not there.
        path: the record's file, kept as an artifact of the run.

    Returns:
        The run's address, or its folder where it is offline.

    Raises:
        DeployError: wandb is not installed, not logged in, or can't reach its server.
    """
    wandb = require("wandb", extra="wandb")
    try:
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        with wandb.init(
            project=project, name=record.name, config=_configuration(record), settings=settings
        ) as run:
            run.log(_series(wandb, record))
            run.summary.update(_figures(record))
            if path is not None:
                artifact = wandb.Artifact(name=f"record-{run.id}", type="record")
                artifact.add_file(str(path))
                run.log_artifact(artifact)
            return str(Path(run.dir).parent if run.offline else run.url)
    except (wandb.Error, ValueError) as error:  # the second is of its settings
        raise DeployError(
            f"Weights & Biases did not take the record: {str(error).splitlines()[0].rstrip('.')}.",
            code="wandb-failed",
            fix="wandb login, or set WANDB_MODE=offline and wandb sync later",
        ) from error


def _configuration(record: Record | LayerProfile) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {name: value for name, value in fields.items() if name not in _SAMPLES}


def _series(wandb: Any, record: Record | LayerProfile) -> dict[str, Any]:
    if isinstance(record, Record):
        return {"latency_ms": wandb.Histogram(record.latency_ms)}
    columns = ["block", "ms", "macs", "bytes", "bound_ms"]
    rows = [
        [each.block, each.ms, each.macs, each.size_bytes, each.bound_ms]
        for each in sum_by_block(record.layers)
    ]
    return {"blocks": wandb.Table(columns=columns, data=rows)}


def _figures(record: Record | LayerProfile) -> dict[str, Any]:
    if not isinstance(record, Record):
        return {"layers_ms": sum(layer.ms for layer in record.layers), "remarks": list(record.run_caveats)}
    estimates = {f"p{percent}_ms": record.percentile_ms(percent) for percent in PERCENTILES}
    estimates["images_per_s"] = record.images_per_s
    ends = {
        f"{name}{end}": value
        for name, each in estimates.items()
        for end, value in (("", each.value), ("_low", each.low), ("_high", each.high))
        if value is not None  # an end that is open has no figure
    }
    return {**ends, "remarks": list(record.caveats)}
