import ipaddress
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from click.core import ParameterSource

from deploykit.cli.notes import Verbosity, note, print_notes_at_once, verbosity
from deploykit.cli.output import json_option, print_json, print_table
from deploykit.cli.progress import show_progress
from deploykit.cli.units import parse_duration_ms, parse_size_bytes
from deploykit.serving.repository.check import CheckedRepository, check_repository
from deploykit.serving.repository.options import BACKENDS, Backend, ModelOptions
from deploykit.serving.repository.write import WrittenModel, write_repository
from deploykit.serving.serve import serve
from deploykit.serving.triton.options import LOOPBACK, Ports, ServerOptions
from deploykit.serving.triton.server import Server
from deploykit.util.errors import DeployError

DISAGREES = 3
_DAY_S = 86_400
_MODEL_OPTIONS = ("name", "backend", "max_latency", "batching", "instances", "threads", "max_queue", "images")
_SERVER_OPTIONS = (
    *("host", "http_port", "grpc_port", "metrics_port", "max_body", "connections"),
    *("shutdown_timeout", "startup_timeout", "poll", "python"),
)


def _folder(_context: click.Context, option: click.Parameter, text: str | None) -> Path | None:
    if text == "":  # usually an unset variable; Path would take it for the current folder
        raise DeployError(
            f"--{option.name} needs a folder, and its value is empty.",
            code="option-incomplete",
            fix=f"give a folder: --{option.name} models",
        )
    return None if text is None else Path(text)


@click.command(name="serve")
@click.argument("engines", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--triton",
    callback=_folder,
    metavar="DIR",
    help="Write a model repository into DIR instead of starting a server.",
)
@click.option(
    "--check",
    callback=_folder,
    metavar="DIR",
    help="Check that the model repository DIR agrees with its engines.",
)
@click.option("--name", help="Name of the model; default: its family and scale.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="Triton backend that runs the engines; default: their own, or python for the bundled Triton.",
)
@click.option(
    "--max-latency",
    metavar="10ms",
    help="Latency to hold, from arrival to answer, when requests wait for others to form a batch.",
)
@click.option(
    "--batching/--no-batching",
    default=True,
    show_default=True,
    help="Combine concurrent requests into batches.",
)
@click.option(
    "--instances",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Copies of each engine that run at the same time on each GPU.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Threads of each instance on the CPU; default: an equal share of the cores.",
)
@click.option("--max-queue", type=int, help="Most requests that may wait for a model; default: no limit.")
@click.option(
    "--images/--no-images",
    default=True,
    show_default=True,
    help="Accept encoded images too, such as JPEG and PNG.",
)
@click.option(
    "--host",
    default=LOOPBACK,
    show_default=True,
    help="Address to listen on; 0.0.0.0 for all interfaces.",
)
@click.option(
    "--http-port", type=int, default=8000, show_default=True, help="Port for HTTP; 0 picks a free one."
)
@click.option(
    "--grpc-port", type=int, default=8001, show_default=True, help="Port for gRPC; 0 picks a free one."
)
@click.option(
    "--metrics-port", type=int, default=8002, show_default=True, help="Port for metrics; 0 picks a free one."
)
@click.option(
    "--max-body",
    metavar="64MB",
    help="Largest HTTP body or gRPC message; default: the size of the largest batch.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 65536),
    default=512,
    show_default=True,
    help="Most connections at the same time, for HTTP and for gRPC each.",
)
@click.option(
    "--shutdown-timeout",
    metavar="30s",
    default="30s",
    show_default=True,
    help="Time that running requests have to finish when the server stops.",
)
@click.option(
    "--startup-timeout",
    metavar="300s",
    default="300s",
    show_default=True,
    help="Time that models have to load and warm up.",
)
@click.option(
    "--poll",
    metavar="5s",
    default="5s",
    show_default=True,
    help="Interval between checks of a served repository for new versions.",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="Python that runs models in Triton; default: the one that runs deploykit.",
)
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
    shutdown_timeout: str,
    startup_timeout: str,
    poll: str,
    python: Path | None,
    as_json: bool,
) -> None:
    """Serve ENGINES, or the model repository DIR, with Triton; or write a repository for another Triton.

    With --verbose, the server prints Triton's log.

    \b
    Example:
      deploykit serve engines/efficientnet-phi3/model.int8.cpu.onnx
      deploykit serve --triton models engines/efficientnet-phi3/model.int8.sm75.engine
      deploykit serve --check models
    """
    if check is not None:
        _require_alone(check, engines, triton)
        _require_unused((*_MODEL_OPTIONS, *_SERVER_OPTIONS), reason="--check only reads a repository")
        sys.exit(_check(check, as_json=as_json))
    options = ModelOptions(
        name=name,
        backend=backend,
        max_latency_ms=parse_duration_ms(max_latency),
        max_queue=max_queue,
        batching=batching,
        instances=instances,
        threads=threads,
        images=images,
    )
    if triton is not None:
        _require_unused(_SERVER_OPTIONS, reason="--triton starts no server")
        with show_progress("writing"):
            written = write_repository(triton, engines, options, note=note)
        _print_written(written, as_json=as_json)
        return
    if any(each.is_dir() for each in engines):
        _require_unused(_MODEL_OPTIONS, reason="a repository has its own configurations")
    else:
        _require_unused(("poll",), reason="only a repository gets new versions")
    server = ServerOptions(
        host=host,
        ports=Ports(http=http_port, grpc=grpc_port, metrics=metrics_port),
        body_bytes=None
        if max_body is None
        else parse_size_bytes(max_body, option="--max-body", example="64MB"),
        connections=connections,
        shutdown_timeout_s=_seconds(shutdown_timeout, "--shutdown-timeout", least=0),
        startup_timeout_s=_seconds(startup_timeout, "--startup-timeout", least=1),
        poll_s=_seconds(poll, "--poll", least=1),
    )
    log = _print_line if verbosity() is Verbosity.VERBOSE else lambda line: None
    with ExitStack() as stack:
        running: Server | None = None
        try:
            with show_progress("loading and warming up"):
                running = stack.enter_context(
                    serve(engines, options, server, python=python, note=note, log=log)
                )
            _announce(running, as_json=as_json)
            print_notes_at_once()
            running.wait()
        except KeyboardInterrupt:
            if running is None:
                raise
            timeout = f"{server.shutdown_timeout_s:g} s"
            print(f"stopping: finishing running requests, for up to {timeout}", file=sys.stderr)
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
        if not _is_loopback(server.host):
            note("There is no authentication: put an authenticating proxy in front.", important=True)
    sys.stdout.flush()


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _print_written(written: Sequence[WrittenModel], *, as_json: bool) -> None:
    if as_json:
        print_json({"models": written})
        return
    for each in written:
        images = f", with {each.image_model} for images" if each.image_model else ""
        print(
            f"{each.path}: version {each.version} of {each.name}, for Triton's {each.backend} backend{images}"
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
    problems = f"{len(found.findings)} problem{'s' if len(found.findings) > 1 else ''}"
    print(f"{folder}: {problems if found.findings else 'agrees with its engines'}")


def _require_alone(check: Path, engines: Sequence[Path], triton: Path | None) -> None:
    if engines or triton is not None:
        raise DeployError(
            "--check can't be combined with ENGINES or --triton.",
            code="option-conflict",
            fix=f"deploykit serve --check {check}",
        )


def _require_unused(options: Sequence[str], *, reason: str) -> None:
    """Check that none of these options was given.

    Raises:
        DeployError: One was.
    """
    context = click.get_current_context()
    for each in context.command.params:
        if each.name in options and context.get_parameter_source(each.name) is ParameterSource.COMMANDLINE:
            given = each.secondary_opts if context.params[each.name] is False else each.opts
            raise DeployError(
                f"{given[-1]} would have no effect: {reason}.",
                code="option-not-applicable",
                fix=f"leave out {given[-1]}",
            )


def _seconds(text: str, option: str, *, least: float) -> float:
    try:
        seconds = (parse_duration_ms(text) or 0.0) / 1000
    except DeployError as error:
        raise DeployError(
            f"{option} needs a duration, not {text!r}.", code="invalid-duration", fix=f"{option} 30s"
        ) from error
    if not least <= seconds <= _DAY_S:
        raise DeployError(
            f"{option} must be between {least:g} s and a day, not {text}.",
            code="invalid-duration",
            fix=f"{option} 30s",
        )
    return seconds
