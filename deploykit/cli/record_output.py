"""Where records go: a folder, Weights & Biases, both or neither."""

from dataclasses import dataclass
from pathlib import Path

import click

from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import Record
from deploykit.bench.record_file import require_record_folder, write_record
from deploykit.bench.tracking import log_to_wandb
from deploykit.util.lazy_import import require

wandb_option = click.option(
    "--wandb", metavar="PROJECT", help="Log to Weights & Biases too; WANDB_MODE=offline keeps it here."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Attributes: path: of the record's file; run: in Weights & Biases; each None where not asked for."""

    path: Path | None
    run: str | None

    def print(self) -> None:
        if self.path is not None:
            print(f"record: {self.path}")
        if self.run is not None:
            print(f"wandb: {self.run}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Attributes: folder, project: None where not asked for."""

    folder: Path | None
    project: str | None

    def prepare(self) -> None:
        """Fails now rather than after measuring.

        Raises:
            DeployError: the folder can't be written, or wandb is not installed.
        """
        if self.folder is not None:
            require_record_folder(self.folder)
        if self.project is not None:
            require("wandb", extra="wandb")

    def keep(self, record: Record | LayerProfile) -> Kept:
        path = None if self.folder is None else write_record(record, self.folder)
        return Kept(path=path, run=self.log(record, path))

    def log(self, record: Record | LayerProfile, path: Path | None) -> str | None:
        return None if self.project is None else log_to_wandb(record, self.project, path=path)
