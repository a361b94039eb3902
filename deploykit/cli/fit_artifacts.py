"""What `fit` writes besides its answer: a plot, and with --export the model and its engine."""

from collections.abc import Iterator
from pathlib import Path

from deploykit.cli.notes import note
from deploykit.cli.progress import show_progress
from deploykit.gpu_catalog.gpus import Gpu
from deploykit.planning.fit.result import Candidate, FitResult

Artifacts = Iterator[tuple[str, Path]]
"""Kind and path of each artifact, which is written when it is asked for."""


def require_artifacts(gpu: str | Gpu, *, plot_file: Path | None, exports: bool) -> None:
    """Check that the artifacts can be written, before anything is measured.

    Raises:
        DeployError: The plot has an unknown format, or no engine can be built for the GPU.
    """
    if plot_file is not None:
        from deploykit.planning.fit.plot import require_plottable

        require_plottable(plot_file)
    if exports:
        from deploykit.engine.targets import resolve_target

        resolve_target(gpu)


def write_artifacts(
    fit: FitResult, gpu: str | Gpu, family: str, *, plot_file: Path | None, exports: bool
) -> Artifacts:
    """Write one artifact after the other, and yield each."""
    if plot_file is not None:
        from deploykit.planning.fit.plot import write_plot

        write_plot(fit, plot_file)
        yield "plot", plot_file
    if exports and fit.chosen is not None:
        yield from _export(fit, fit.chosen, gpu, family)


def _export(fit: FitResult, chosen: Candidate, gpu: str | Gpu, family: str) -> Artifacts:
    from deploykit.engine.build import build_engine
    from deploykit.engine.shapes import BatchRange
    from deploykit.networks.export import export_onnx
    from deploykit.networks.member import choose_member
    from deploykit.networks.single_axis import axis_member

    member = choose_member(family, phi=chosen.phi)
    if fit.axis is not None:
        member = axis_member(member.family, chosen.scale, fit.axis)
    with show_progress("exporting"):
        exported = export_onnx(member, overwrite=False)
    yield "onnx", exported.path
    batches = BatchRange(min=chosen.batch, opt=chosen.batch, max=chosen.batch)
    with show_progress("building") as progress:
        built = build_engine(
            onnx=exported.path,
            precision=chosen.precision,
            gpu=gpu,
            batches=[batches],
            note=note,
            progress=progress,
        )
    yield "engine", built.path
    note(
        "The weights are random: use the engine to measure latency, not for accuracy. "
        "deploykit export --weights loads trained ones.",
        important=True,
    )
