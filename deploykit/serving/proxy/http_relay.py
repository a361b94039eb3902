"""Relays one HTTP client's connection: each request is parsed strictly, checked, and written again."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

from deploykit.serving.proxy.relay import READ_BYTES, ProxyState
from deploykit.serving.proxy.request_json import sanitize_request_json
from deploykit.util.lazy_import import require

_NO_ANSWER = "the upstream server does not answer"
_DISCARD_S, _DISCARD_BYTES = 5.0, 2**33  # read after a refusal, so that a client that still sends sees it
# Triton 2.51 answers these with status 500 though the request is wrong; KServe's protocol says 400.
_PARSE_FAILURES = (b'{"error":"failed to parse the request JSON', b'{"error":"Unable to parse ')
_JSON_LENGTH, _MOST_DIGITS = b"inference-header-content-length", 20
# Where Triton reads that header. Elsewhere it parses the whole body as JSON, whatever the header says.
_INFER = re.compile(rb"/v2/models/[^/?#]+(?:/versions/[0-9]+)?/infer")
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"expect", b"transfer-encoding", b"te"}
)
_OWN_HEADERS = _HOP_BY_HOP | {b"content-length", _JSON_LENGTH}


class RequestRefused(Exception):  # noqa: N818  # an answer to the client, not a failure here
    """A request that is not passed on, with the HTTP status and the reason for the client."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status, self.problem = status, problem


class HttpRelay:
    """One HTTP client's connection and the connection to Triton that serves it."""

    def __init__(self, proxy: ProxyState, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._h11: Any = require("h11", extra="serve")
        self._limits = proxy.limits
        self._client = self._h11.Connection(self._h11.SERVER)
        self._triton: Any = None
        self._triton_reader: asyncio.StreamReader | None = None
        self._triton_writer: asyncio.StreamWriter | None = None
        self._is_idle = False

    async def serve(self) -> None:
        try:
            while await self._serve_request():
                if self._proxy.is_closing:
                    self.finish()
                self._client.start_next_cycle()
                if self._is_done(self._triton):
                    self._triton.start_next_cycle()
                else:
                    self._disconnect()
        finally:
            self._disconnect()

    async def _serve_request(self) -> bool:
        """Serve one request; return whether another one may follow."""
        try:
            request = await self._first_event()
            if not isinstance(request, self._h11.Request):
                return False
            length = self._body_length(request)
            self._proxy.requests += 1
            await self._pass_request(request, length)
            await self._pass_answer()
        except self._h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, str(error))
            return False
        except RequestRefused as refusal:
            await self._refuse(refusal.status, refusal.problem)
            return False
        return self._is_done(self._client)

    def _is_done(self, parser: Any) -> bool:
        """Return whether another request may follow on the parser's connection."""
        return set(parser.states.values()) == {self._h11.DONE}

    def _disconnect(self) -> None:
        if self._triton_writer is not None:
            self._triton_writer.close()
        self._triton_writer = None

    async def _first_event(self) -> Any:
        """Return the head of the next request, or the end of the connection."""
        self._is_idle = True
        try:
            return await self._from_client()
        finally:
            self._is_idle = False

    def finish(self) -> None:
        """Close the connection after the current request, or shortly if there is none."""
        asyncio.get_running_loop().call_later(self._limits.last_request_s, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._is_idle:
            self._writer.close()

    async def _from_client(self) -> Any:
        """Return the next event of what the client sends."""
        while (event := self._client.next_event()) is self._h11.NEED_DATA:
            if self._client.they_are_waiting_for_100_continue:
                go_on = self._h11.InformationalResponse(status_code=100, headers=[])
                self._writer.write(self._client.send(go_on))
            async with asyncio.timeout(self._limits.idle_s):
                self._client.receive_data(await self._reader.read(READ_BYTES))
        return event

    async def _to_client(self, event: Any) -> None:
        self._writer.write(self._client.send(event) or b"")
        async with asyncio.timeout(self._limits.idle_s):
            await self._writer.drain()

    async def _from_triton(self) -> Any:
        """Return the next event of Triton's answer.

        Raises:
            RequestRefused: Triton closes the connection, is silent for too long, or does not speak HTTP.
        """
        assert self._triton_reader is not None  # noqa: S101  # a request was sent
        try:
            while (event := self._triton.next_event()) is self._h11.NEED_DATA:
                async with asyncio.timeout(self._limits.answer_s):
                    self._triton.receive_data(await self._triton_reader.read(READ_BYTES))
        except (OSError, self._h11.RemoteProtocolError) as error:  # TimeoutError is an OSError
            raise RequestRefused(503, _NO_ANSWER) from error
        return event

    async def _to_triton(self, *events: Any) -> None:
        """Send Triton a part of a request.

        Raises:
            RequestRefused: Triton has closed the connection.
        """
        assert self._triton_writer is not None  # noqa: S101  # connected before
        try:
            for event in events:
                self._triton_writer.write(self._triton.send(event) or b"")
            await self._triton_writer.drain()
        except OSError as error:
            raise RequestRefused(503, _NO_ANSWER) from error

    def _body_length(self, request: Any) -> int:
        """Return the length of a request's body.

        Raises:
            RequestRefused: The request does not state it, or it is over the limit.
        """
        headers = dict(request.headers)
        if b"transfer-encoding" in headers:
            raise RequestRefused(411, "a request must state its Content-Length")
        if any(name == b"content-encoding" and how != b"identity" for name, how in request.headers):
            raise RequestRefused(415, "compressed requests are refused: their length is unknown")
        length = int(headers.get(b"content-length", b"0"))
        if length > self._limits.body_bytes:
            raise RequestRefused(
                413, f"a body of {length} bytes exceeds the limit of {self._limits.body_bytes}"
            )
        return length

    async def _pass_request(self, request: Any, length: int) -> None:
        json_bytes = _stated_json_bytes(request, length)
        with self._proxy.buffering() as buffer:
            text, rest = await self._start_of_body(length if json_bytes is None else json_bytes, buffer)
            length -= len(text)
            text = _sanitized(text, length + len(text))
            length += len(text)
            headers = [each for each in request.headers if each[0] not in _OWN_HEADERS]
            if json_bytes is not None:
                headers.append((_JSON_LENGTH, str(len(text)).encode()))
            if length or request.method == b"POST":
                headers.append((b"content-length", str(length).encode()))
            if not any(name == b"host" for name, _ in headers):  # optional in HTTP/1.0, required in 1.1
                headers.append((b"host", b"localhost"))
            await self._connect()
            head = self._h11.Request(method=request.method, target=request.target, headers=headers)
            await self._to_triton(head, *map(self._h11.Data, filter(None, (text, rest))))
        while isinstance(event := await self._from_client(), self._h11.Data):
            await self._to_triton(event)
        if not isinstance(event, self._h11.EndOfMessage):
            raise EOFError  # noqa: TRY004  # the client closed the connection
        await self._to_triton(self._h11.EndOfMessage())

    async def _start_of_body(self, json_bytes: int, buffer: Callable[[int], bool]) -> tuple[bytes, bytes]:
        """Return the first json_bytes of the body, and what was read beyond them.

        Raises:
            RequestRefused: Other connections buffer too much already.
        """
        begun = bytearray()
        while len(begun) < json_bytes:
            event = await self._from_client()
            if not isinstance(event, self._h11.Data):
                raise EOFError  # noqa: TRY004  # the client closed the connection
            if not buffer(len(event.data)):
                raise RequestRefused(
                    503, "too much JSON is waiting to be parsed: retry, or send the tensors in binary"
                )
            begun += event.data
        return bytes(begun[:json_bytes]), bytes(begun[json_bytes:])

    async def _pass_answer(self) -> None:
        response = await self._from_triton()
        if not isinstance(response, self._h11.Response):
            raise RequestRefused(503, _NO_ANSWER)
        headers = [each for each in response.headers if each[0] not in _HOP_BY_HOP]
        if self._proxy.is_closing:
            headers.append((b"connection", b"close"))
        rest = self._rest_of_answer()
        status, reason, held = response.status_code, response.reason, []
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            held = [event async for event in rest]
            if b"".join(event.data for event in held).startswith(_PARSE_FAILURES):
                status, reason = 400, b"Bad Request"
        await self._to_client(self._h11.Response(status_code=status, headers=headers, reason=reason))
        for event in held:
            await self._to_client(event)
        async for event in rest:  # exhausted if it was held
            await self._to_client(event)
        await self._to_client(self._h11.EndOfMessage())

    async def _rest_of_answer(self) -> AsyncIterator[Any]:
        """Yield what Triton sends after the head."""
        while isinstance(event := await self._from_triton(), self._h11.Data):
            yield event

    async def _connect(self) -> None:
        """Connect to Triton, unless a connection is open.

        Raises:
            RequestRefused: Triton can't be reached.
        """
        if self._triton_reader is not None and self._triton_reader.at_eof():
            self._disconnect()
        if self._triton_writer is not None:
            return
        try:
            self._triton_reader, self._triton_writer = await asyncio.open_connection(
                "127.0.0.1", self._proxy.upstream_port, limit=READ_BYTES
            )
        except OSError as error:
            raise RequestRefused(503, "the upstream server can't be reached") from error
        self._triton = self._h11.Connection(self._h11.CLIENT)

    async def _refuse(self, status: int, problem: str) -> None:
        """Answer with the protocol's error, if no answer has begun, and end the connection."""
        if self._client.our_state not in (self._h11.IDLE, self._h11.SEND_RESPONSE):
            return
        body, reason = error_body(problem), HTTPStatus(status).phrase.encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        await self._to_client(self._h11.Response(status_code=status, headers=headers, reason=reason))
        await self._to_client(self._h11.Data(body))
        await self._to_client(self._h11.EndOfMessage())
        if self._writer.can_write_eof():
            self._writer.write_eof()
        await self._discard()

    async def _discard(self) -> None:
        """Read what the client still sends: left unread, it would make the system drop the answer."""
        left = _DISCARD_BYTES
        try:
            async with asyncio.timeout(_DISCARD_S):
                while left > 0 and (read := await self._reader.read(READ_BYTES)):
                    left -= len(read)
        except TimeoutError:
            pass


def _stated_json_bytes(request: Any, length: int) -> int | None:
    """Return how much of the body is JSON, with binary data after it; None where all of it is.

    Raises:
        RequestRefused: The header is repeated, not a number, larger than the body, or sent where Triton
            parses the whole body as JSON.
    """
    values = [value for name, value in request.headers if name == _JSON_LENGTH]
    if not values:
        return None
    if not _INFER.fullmatch(request.target):
        raise RequestRefused(400, "Inference-Header-Content-Length is only for /v2/models/MODEL/infer")
    is_number = len(values) == 1 and values[0].isdigit() and len(values[0]) <= _MOST_DIGITS
    if not is_number or int(values[0]) > length:
        raise RequestRefused(
            400, f"Inference-Header-Content-Length must be one number between 0 and {length}"
        )
    return int(values[0])


def _sanitized(text: bytes, request_bytes: int) -> bytes:
    try:
        return sanitize_request_json(text, request_bytes=request_bytes) if text else text
    except ValueError as error:
        raise RequestRefused(400, str(error)) from error


def error_body(problem: str) -> bytes:
    """Encode an error as KServe's protocol does."""
    return json.dumps({"error": problem}).encode()
