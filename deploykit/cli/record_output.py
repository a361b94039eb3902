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
    "--wandb",
    metavar="PROJECT",
    help="Weights & Biases project to log to as well; WANDB_MODE=offline logs to this machine.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Where a record was kept.

    Attributes:
        path: The record's file; None if no folder was given.
        run: The Weights & Biases run; None if no project was given.
    """

    path: Path | None
    run: str | None

    def print(self) -> None:
        """Print where the record is."""
        if self.path is not None:
            print(f"record: {self.path}")
        if self.run is not None:
            print(f"wandb: {self.run}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Keeps records.

    Attributes:
        folder: Folder for record files, or None.
        project: Weights & Biases project, or None.
    """

    folder: Path | None
    project: str | None

    def prepare(self) -> None:
        """Check that records can be kept, before they are measured.

        Raises:
            DeployError: The folder can't be written, or wandb is not installed.
        """
        if self.folder is not None:
            require_record_folder(self.folder)
        if self.project is not None:
            require("wandb", extra="wandb")

    def keep(self, record: Record | LayerProfile) -> Kept:
        """Write the record to the folder and log it to the project, where given."""
        path = None if self.folder is None else write_record(record, self.folder)
        return Kept(path=path, run=self.log(record, path))

    def log(self, record: Record | LayerProfile, path: Path | None) -> str | None:
        """Log the record to the project, if one is given, and return the run."""
        return None if self.project is None else log_to_wandb(record, self.project, path=path)
