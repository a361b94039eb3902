import ipaddress
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from click.core import ParameterSource

from deploykit.cli.output import json_option, note, phases, print_json, print_table
from deploykit.cli.units import duration_ms, size_bytes
from deploykit.serving.repository.check import CheckedRepository, check_repository
from deploykit.serving.repository.config import BACKENDS, Backend
from deploykit.serving.repository.write import Options, Written, write_repository
from deploykit.serving.serve import serve
from deploykit.serving.triton.process import LOOPBACK, Ports, Server, ServerOptions
from deploykit.util.errors import DeployError

DISAGREES = 3
_DAY_S = 86_400
_OF_MODELS = ("name", "backend", "max_latency", "batching", "instances", "threads", "max_queue", "images")
_OF_SERVERS = (
    *("host", "http_port", "grpc_port", "metrics_port", "max_body", "connections"),
    *("drain", "ready", "poll", "python", "verbose"),
)


def _folder(_context: click.Context, option: click.Parameter, text: str | None) -> Path | None:
    if text == "":  # as of a variable that isn't set; Path would take it for the current folder
        raise DeployError(
            f"--{option.name} names no folder.",
            code="option-incomplete",
            fix=f"give one: --{option.name} models",
        )
    return None if text is None else Path(text)


@click.command(name="serve")
@click.argument("engines", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--triton",
    callback=_folder,
    metavar="DIR",
    help="Write a model repository, and start nothing.",
)
@click.option(
    "--check",
    callback=_folder,
    metavar="DIR",
    help="Compare a model repository with its engines.",
)
@click.option("--name", help="Of the model; default: its family and scale.")
@click.option(
    "--backend", type=click.Choice(BACKENDS), help="Triton's; default: the engine's own, with --triton."
)
@click.option(
    "--max-latency", metavar="10ms", help="To hold from arrival to answer, while waiting for others."
)
@click.option("--batching/--no-batching", default=True, show_default=True, help="Put requests together.")
@click.option(
    "--instances", type=click.IntRange(1, 64), default=1, show_default=True, help="At the same time, a GPU."
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Of an instance on the CPU; default: its share of the cores.",
)
@click.option("--max-queue", type=int, help="Requests that may wait for a model; default: any number.")
@click.option(
    "--images/--no-images", default=True, show_default=True, help="Take JPEG, PNG and the like too."
)
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--http-port", type=int, default=8000, show_default=True, help="0 for any.")
@click.option("--grpc-port", type=int, default=8001, show_default=True, help="0 for any.")
@click.option("--metrics-port", type=int, default=8002, show_default=True, help="0 for any.")
@click.option(
    "--max-body", metavar="64MB", help="Of a request or message; default: what the largest batch takes."
)
@click.option(
    "--connections",
    type=click.IntRange(1, 65536),
    default=512,
    show_default=True,
    help="HTTP, and gRPC, each at most.",
)
@click.option(
    "--drain", metavar="30s", default="30s", show_default=True, help="For requests under way, when stopped."
)
@click.option(
    "--ready", metavar="300s", default="300s", show_default=True, help="For models to load and warm up."
)
@click.option(
    "--poll", metavar="5s", default="5s", show_default=True, help="Look at a served DIR for new versions."
)
@click.option(
    "--python", type=click.Path(path_type=Path), help="What runs models in Triton; default: this one."
)
@click.option("-v", "--verbose", is_flag=True, help="Print what Triton says.")
@json_option
def command(
    engines: tuple[Path, ...],
    triton: Path | None,
    check: Path | None,
    name: str | None,
    backend: Backend | None,
    max_latency: str | None,
    batching: bool,
    instances: int,
    threads: int | None,
    max_queue: int | None,
    images: bool,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    max_body: str | None,
    connections: int,
    drain: str,
    ready: str,
    poll: str,
    python: Path | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Serve ENGINES, or a model repository DIR, with Triton here; or write one for a Triton elsewhere.

    \b
    Example:
      deploykit serve engines/efficientnet-phi3/model.int8.cpu.onnx
      deploykit serve --triton models engines/efficientnet-phi3/model.int8.sm75.engine
      deploykit serve --check models
    """
    if check is not None:
        _require_alone(check, engines, triton)
        _require_unused((*_OF_MODELS, *_OF_SERVERS), why="--check writes and serves nothing")
        sys.exit(_check(check, as_json=as_json))
    options = Options(
        name=name,
        backend=backend,
        max_latency_ms=duration_ms(max_latency),
        max_queue=max_queue,
        batching=batching,
        instances=instances,
        threads=threads,
        images=images,
    )
    if triton is not None:
        _require_unused(_OF_SERVERS, why="--triton starts no server")
        with phases("writing"):
            written = write_repository(triton, engines, options, note=note)
        _print_written(written, as_json=as_json)
        return
    if any(each.is_dir() for each in engines):
        _require_unused(_OF_MODELS, why="a repository's own configurations say that")
    else:
        _require_unused(("poll",), why="an engine gets no new versions; a repository does")
    server = ServerOptions(
        host=host,
        ports=Ports(http=http_port, grpc=grpc_port, metrics=metrics_port),
        body_bytes=None if max_body is None else size_bytes(max_body, option="--max-body", example="64MB"),
        connections=connections,
        drain_s=_seconds(drain, "--drain", least=0),
        ready_s=_seconds(ready, "--ready", least=1),
        poll_s=_seconds(poll, "--poll", least=1),
    )
    log = _print_line if verbose else lambda line: None
    with ExitStack() as stack:
        running: Server | None = None
        try:
            with phases("loading and warming up"):
                running = stack.enter_context(
                    serve(engines, options, server, python=python, note=note, log=log)
                )
            _announce(running, as_json=as_json)
            running.wait()
        except KeyboardInterrupt:
            if running is None:
                raise
            print(f"stopping: answering what was asked, for up to {server.drain_s:g} s", file=sys.stderr)
    print(f"stopped after {running.requests} requests", file=sys.stderr)


def _print_line(line: str) -> None:
    print(line, file=sys.stderr)


def _announce(server: Server, *, as_json: bool) -> None:
    grpc, metrics = server.grpc_url, server.metrics_url
    if as_json:
        print_json(
            {"http": server.url, "grpc": grpc, "metrics": metrics, "models": server.models, "pid": server.pid}
        )
    else:
        print(f"ready: {server.url}, {grpc}, {metrics}")
        print(f"models: {', '.join(server.models)}")
        if not _is_here_alone(server.host):
            note(f"Whoever reaches {server.host} can ask: nothing checks who it is.")
    sys.stdout.flush()


def _is_here_alone(host: str) -> bool:
    """Whether none but this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _print_written(written: Sequence[Written], *, as_json: bool) -> None:
    if as_json:
        print_json({"models": written})
        return
    for each in written:
        takes = f", and {each.image_model} for images" if each.image_model else ""
        print(
            f"{each.path}: version {each.version} of {each.name}, by Triton's {each.backend} backend{takes}"
        )


def _check(folder: Path, *, as_json: bool) -> int:
    found = check_repository(folder)
    if as_json:
        print_json(
            {"path": folder, "agrees": not found.findings, "models": found.models, "findings": found.findings}
        )
    else:
        _print_check(folder, found)
    return DISAGREES if found.findings else 0


def _print_check(folder: Path, found: CheckedRepository) -> None:
    rows = [
        (
            each.name,
            each.kind,
            ", ".join(map(str, each.versions)) or "none",
            each.engines or "",
            each.runs_here or "",
        )
        for each in found.models
    ]
    if rows:
        print_table(("model", "backend", "versions", "engines", "run here"), rows)
    for each in found.findings:
        print(f"{each.model}: {each.problem}")
        print(f"  fix: {each.fix}")
    print(f"{folder}: {f'{len(found.findings)} wrong' if found.findings else 'agrees with its engines'}")


def _require_alone(check: Path, engines: Sequence[Path], triton: Path | None) -> None:
    if engines or triton is not None:
        raise DeployError(
            "--check writes and serves nothing.",
            code="option-conflict",
            fix=f"deploykit serve --check {check}",
        )


def _require_unused(options: Sequence[str], *, why: str) -> None:
    """Raises: DeployError: one of the options was given."""
    context = click.get_current_context()
    for each in context.command.params:
        if each.name in options and context.get_parameter_source(each.name) is ParameterSource.COMMANDLINE:
            given = each.secondary_opts if context.params[each.name] is False else each.opts
            raise DeployError(
                f"{given[-1]} would do nothing: {why}.", code="option-not-applicable", fix="leave it out"
            )


def _seconds(text: str, option: str, *, least: float) -> float:
    try:
        seconds = (duration_ms(text) or 0.0) / 1000
    except DeployError as error:
        raise DeployError(
            f"{text!r} is no time for {option}.", code="invalid-duration", fix=f"write {option} 30s"
        ) from error
    if not least <= seconds <= _DAY_S:
        raise DeployError(
            f"{option} is {least:g} s to a day, not {text}.",
            code="invalid-duration",
            fix=f"write {option} 30s",
        )
    return seconds
