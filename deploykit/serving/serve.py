"""Serve engines, or a model repository, with the Triton of this machine."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from deploykit.serving.repository.check import check_repository
from deploykit.serving.repository.folders import repository_path
from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.server_requirements import require_backends
from deploykit.serving.repository.write import group_by_model, write_repository
from deploykit.serving.triton.installation import find_triton
from deploykit.serving.triton.options import ServerOptions
from deploykit.serving.triton.server import Server, run_server
from deploykit.util.errors import DeployError

_MODEL_DEFAULTS, _SERVER_DEFAULTS = ModelOptions(), ServerOptions()


@contextmanager
def serve(
    engines: Sequence[str | Path],
    options: ModelOptions = _MODEL_DEFAULTS,
    server: ServerOptions = _SERVER_DEFAULTS,
    *,
    python: str | Path | None = None,
    note: Callable[[str], None] = lambda sentence: None,
    log: Callable[[str], None] = lambda line: None,
) -> Iterator[Server]:
    """Yield a server that is ready; when the block ends, it answers running requests and stops.

    with deploykit.serve(["model.int8.cpu.onnx"]) as server:
        server.wait()

    Args:
        engines: Engine files, or the folder of one model repository, which is polled for new versions.
        options: How to serve engine files; a repository has its own configurations.
        server: How to run the server.
        python: The Python that runs models in Triton; the current one by default.
        note: Receives a sentence for each thing that the user should know.
        log: Receives each line of Triton's log.

    Raises:
        DeployError: Triton is not installed, an engine or the repository is invalid, or a port is in use.
    """
    paths = [repository_path(each) for each in engines]
    if folders := [each for each in paths if each.is_dir() and len(paths) > 1]:
        raise DeployError(
            f"{folders[0]} is a folder; a repository can't be served together with anything else.",
            code="option-conflict",
            fix=f"deploykit serve {folders[0]}, or deploykit serve --triton {folders[0]} ENGINE",
        )
    repository = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    if repository is None:
        group_by_model(paths, options)
    else:
        for finding in check_repository(repository).findings:
            raise DeployError(finding.problem, code=finding.code, fix=finding.fix)
    triton = find_triton(python)  # after the checks above, which help without Triton as well
    with ExitStack() as stack:
        if repository is None:
            repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploykit-models-")))
            if triton.is_bundled and options.backend is None:
                options = replace(options, backend="python")
            write_repository(repository, paths, options, note=note)
            server = replace(server, poll_s=None)
        if triton.is_bundled:
            require_backends(repository)
        yield stack.enter_context(run_server(repository, triton, server, note=note, log=log))
