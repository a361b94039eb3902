"""Serves engines, or a model repository, with the Triton of this machine."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from deploykit.serving.repository.check import check_repository
from deploykit.serving.repository.folders import repository_at
from deploykit.serving.repository.server_requirements import require_backends
from deploykit.serving.repository.write import Options, by_model, write_repository
from deploykit.serving.triton.installation import find_triton
from deploykit.serving.triton.process import Log, Server, ServerOptions, serving
from deploykit.util.errors import DeployError

DEFAULTS, SERVER_DEFAULTS = Options(), ServerOptions()


@contextmanager
def serve(
    engines: Sequence[str | Path],
    options: Options = DEFAULTS,
    server: ServerOptions = SERVER_DEFAULTS,
    *,
    python: str | Path | None = None,
    note: Callable[[str], None] = lambda sentence: None,
    log: Log = lambda line: None,
) -> Iterator[Server]:
    """A server that is ready; when the block ends it answers what was asked, and stops.

    with deploykit.serve(["model.int8.cpu.onnx"]) as server:
        server.wait()

    Args:
        engines: files of engines, or the folder of one model repository, which is looked at for new versions.
        python: what runs models in Triton; default the one that runs this.
        note: told what the user should know.
        log: told what Triton says, a line each.

    Raises:
        DeployError: there is no Triton, an engine or a repository is not as it should be, a port is taken.
    """
    paths = [repository_at(each) for each in engines]
    if folders := [each for each in paths if each.is_dir() and len(paths) > 1]:
        raise DeployError(
            f"{folders[0]} is a folder, and not alone.",
            code="option-conflict",
            fix=f"deploykit serve {folders[0]}, or deploykit serve --triton {folders[0]} ENGINE",
        )
    served = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    if served is None:
        by_model(paths, options)
    else:
        for wrong in check_repository(served).findings:
            raise DeployError(wrong.problem, code=wrong.code, fix=wrong.fix)
    found = find_triton(python)  # last: whoever lacks it hears of a mistake in what was named all the same
    with ExitStack() as stack:
        if served is not None:
            repository = served
        else:
            repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploykit-models-")))
            if found.is_bundled and options.backend is None:
                options = replace(options, backend="python")
            write_repository(repository, paths, options, note=note)
            server = replace(server, poll_s=None)
        if found.is_bundled:
            require_backends(repository)
        yield stack.enter_context(serving(repository, found, server, note=note, log=log))
