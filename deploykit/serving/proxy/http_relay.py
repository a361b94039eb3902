"""One client's connection to the gate: its requests, read strictly, looked at, and written anew to Triton."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from deploykit.serving.proxy.request_json import rewritten

if TYPE_CHECKING:
    from deploykit.serving.proxy.proxy import Gate

CHUNK_BYTES = 2**18
_NO_ANSWER = "the server behind gives no answer"
_DISCARD_S, _DISCARD_BYTES = 5.0, 2**33  # so that whoever still sends sees the refusal
# What Triton 2.51 answers with status 500 where the request is to blame; 400 is what KServe's protocol says.
_UNPARSED = (b'{"error":"failed to parse the request JSON', b'{"error":"Unable to parse ')
_JSON_LENGTH, _MOST_DIGITS = b"inference-header-content-length", 20
# Where Triton reads that header. Elsewhere it parses all of a body, whatever the header says.
_INFER = re.compile(rb"/v2/models/[^/?#]+(?:/versions/[0-9]+)?/infer")
HELD_BODIES = 4  # of the largest size, that JSON waiting to be read may take in all
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"expect", b"transfer-encoding", b"te"}
)
_OWN_HEADERS = _HOP_BY_HOP | {b"content-length", _JSON_LENGTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask of a server.

    Attributes:
        body_bytes: of a request.
        connections: at the same time.
        idle_s: how long a client may be silent over HTTP, take no more of its answer, or say over gRPC not
            what it is.
        answer_s: how long the server behind may be silent once it was asked over HTTP.
        last_request_s: that a connection has for it, once no more are to come.
    """

    body_bytes: int
    connections: int = 512
    idle_s: float = 120.0
    answer_s: float = 600.0
    last_request_s: float = 0.5


class Refusal(Exception):  # noqa: N818  # no error of ours
    """A request that is not passed on."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status, self.problem = status, problem


class Relay:
    """A connection of a client's, and one to Triton for it."""

    def __init__(self, gate: "Gate", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._gate, self._reader, self._writer = gate, reader, writer
        self._h11, self._limits = gate.h11, gate.limits
        self._client = self._h11.Connection(self._h11.SERVER)
        self._triton: Any = None
        self._triton_reader: asyncio.StreamReader | None = None
        self._triton_writer: asyncio.StreamWriter | None = None
        self._is_idle = False

    async def serve(self) -> None:
        try:
            while await self._one():
                if self._gate.is_closing:
                    self.finish()
                self._client.start_next_cycle()
                if self._is_done(self._triton):
                    self._triton.start_next_cycle()
                else:
                    self._disconnect()
        finally:
            self._disconnect()

    async def _one(self) -> bool:
        """A request and its answer; whether another one may follow."""
        try:
            request = await self._first_event()
            if not isinstance(request, self._h11.Request):
                return False
            length = self._length_of(request)
            self._gate.requests += 1
            await self._pass_on(request, length)
            await self._answer()
        except self._h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, str(error))
            return False
        except Refusal as refusal:
            await self._refuse(refusal.status, refusal.problem)
            return False
        return self._is_done(self._client)

    def _is_done(self, parser: Any) -> bool:
        """Whether another request may follow on its connection."""
        return set(parser.states.values()) == {self._h11.DONE}

    def _disconnect(self) -> None:
        if self._triton_writer is not None:
            self._triton_writer.close()
        self._triton_writer = None

    async def _first_event(self) -> Any:
        """The head of the next request, or that there is none."""
        self._is_idle = True
        try:
            return await self._from_client()
        finally:
            self._is_idle = False

    def finish(self) -> None:
        """Ends the connection after what is asked, or about to be."""
        asyncio.get_running_loop().call_later(self._limits.last_request_s, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._is_idle:
            self._writer.close()

    async def _from_client(self) -> Any:
        """The next event of what the client sends."""
        while (event := self._client.next_event()) is self._h11.NEED_DATA:
            if self._client.they_are_waiting_for_100_continue:
                go_on = self._h11.InformationalResponse(status_code=100, headers=[])
                self._writer.write(self._client.send(go_on))
            async with asyncio.timeout(self._limits.idle_s):
                self._client.receive_data(await self._reader.read(CHUNK_BYTES))
        return event

    async def _to_client(self, event: Any) -> None:
        self._writer.write(self._client.send(event) or b"")
        async with asyncio.timeout(self._limits.idle_s):
            await self._writer.drain()

    async def _from_triton(self) -> Any:
        """The next event of its answer.

        Raises:
            Refusal: it goes, is silent for too long, or speaks no HTTP.
        """
        assert self._triton_reader is not None  # noqa: S101  # it was asked
        try:
            while (event := self._triton.next_event()) is self._h11.NEED_DATA:
                async with asyncio.timeout(self._limits.answer_s):
                    self._triton.receive_data(await self._triton_reader.read(CHUNK_BYTES))
        except (OSError, self._h11.RemoteProtocolError) as error:  # TimeoutError is an OSError
            raise Refusal(503, _NO_ANSWER) from error
        return event

    async def _to_triton(self, *events: Any) -> None:
        """Raises: Refusal: it is gone."""
        assert self._triton_writer is not None  # noqa: S101  # connected before
        try:
            for event in events:
                self._triton_writer.write(self._triton.send(event) or b"")
            await self._triton_writer.drain()
        except OSError as error:
            raise Refusal(503, _NO_ANSWER) from error

    def _length_of(self, request: Any) -> int:
        """Of its body.

        Raises:
            Refusal: nobody says, or it is too much.
        """
        headers = dict(request.headers)
        if b"transfer-encoding" in headers:
            raise Refusal(411, "a request has to say its Content-Length")
        if any(name == b"content-encoding" and how != b"identity" for name, how in request.headers):
            raise Refusal(415, "compressed requests are not taken, whose length is not known")
        length = int(headers.get(b"content-length", b"0"))
        if length > self._limits.body_bytes:
            raise Refusal(
                413, f"a body of {length} bytes is more than the {self._limits.body_bytes} that are taken"
            )
        return length

    async def _pass_on(self, request: Any, length: int) -> None:
        told = _told_json_bytes(request, length)
        with self._gate.holding() as hold:
            text, rest = await self._begin_of_body(length if told is None else told, hold)
            length -= len(text)
            text = _rewritten(text, length + len(text))
            length += len(text)
            headers = [each for each in request.headers if each[0] not in _OWN_HEADERS]
            if told is not None:
                headers.append((_JSON_LENGTH, str(len(text)).encode()))
            if length or request.method == b"POST":
                headers.append((b"content-length", str(length).encode()))
            if not any(name == b"host" for name, _ in headers):  # HTTP/1.0 has none, and 1.1 must
                headers.append((b"host", b"localhost"))
            await self._connect()
            head = self._h11.Request(method=request.method, target=request.target, headers=headers)
            await self._to_triton(head, *map(self._h11.Data, filter(None, (text, rest))))
        while isinstance(event := await self._from_client(), self._h11.Data):
            await self._to_triton(event)
        if not isinstance(event, self._h11.EndOfMessage):
            raise EOFError  # noqa: TRY004  # what a client does that goes
        await self._to_triton(self._h11.EndOfMessage())

    async def _begin_of_body(self, json_bytes: int, hold: Callable[[int], bool]) -> tuple[bytes, bytes]:
        """That much of it, and what was read beyond.

        Raises:
            Refusal: others are being held already.
        """
        begun = bytearray()
        while len(begun) < json_bytes:
            event = await self._from_client()
            if not isinstance(event, self._h11.Data):
                raise EOFError  # noqa: TRY004  # what a client does that goes
            if not hold(len(event.data)):
                raise Refusal(503, "too much JSON is being read: ask again, or send the tensors in binary")
            begun += event.data
        return bytes(begun[:json_bytes]), bytes(begun[json_bytes:])

    async def _answer(self) -> None:
        response = await self._from_triton()
        if not isinstance(response, self._h11.Response):
            raise Refusal(503, _NO_ANSWER)
        headers = [each for each in response.headers if each[0] not in _HOP_BY_HOP]
        if self._gate.is_closing:
            headers.append((b"connection", b"close"))
        rest = self._rest_of_answer()
        status, reason, held = response.status_code, response.reason, []
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            held = [event async for event in rest]
            if b"".join(event.data for event in held).startswith(_UNPARSED):
                status, reason = 400, b"Bad Request"
        await self._to_client(self._h11.Response(status_code=status, headers=headers, reason=reason))
        for event in held:
            await self._to_client(event)
        async for event in rest:  # ended, where it was held
            await self._to_client(event)
        await self._to_client(self._h11.EndOfMessage())

    async def _rest_of_answer(self) -> AsyncIterator[Any]:
        """What Triton sends after the head."""
        while isinstance(event := await self._from_triton(), self._h11.Data):
            yield event

    async def _connect(self) -> None:
        """Raises: Refusal: nobody is there."""
        if self._triton_reader is not None and self._triton_reader.at_eof():
            self._disconnect()
        if self._triton_writer is not None:
            return
        try:
            self._triton_reader, self._triton_writer = await asyncio.open_connection(
                "127.0.0.1", self._gate.upstream_port, limit=CHUNK_BYTES
            )
        except OSError as error:
            raise Refusal(503, "the server behind can't be reached") from error
        self._triton = self._h11.Connection(self._h11.CLIENT)

    async def _refuse(self, status: int, problem: str) -> None:
        """The protocol's error, where the client can still be told; and the connection ends."""
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
        """What is still being sent: left unread, it would make the system drop the answer."""
        left = _DISCARD_BYTES
        try:
            async with asyncio.timeout(_DISCARD_S):
                while left > 0 and (read := await self._reader.read(CHUNK_BYTES)):
                    left -= len(read)
        except TimeoutError:
            pass


def _told_json_bytes(request: Any, length: int) -> int | None:
    """How much of the body is JSON, where binary data follow it; None where all is.

    Raises:
        Refusal: that is said twice, is no number, more than the body, or of what is all JSON to Triton.
    """
    told = [value for name, value in request.headers if name == _JSON_LENGTH]
    if not told:
        return None
    if not _INFER.fullmatch(request.target):
        raise Refusal(400, "Inference-Header-Content-Length is for /v2/models/MODEL/infer alone")
    is_number = len(told) == 1 and told[0].isdigit() and len(told[0]) <= _MOST_DIGITS
    if not is_number or int(told[0]) > length:
        raise Refusal(400, f"Inference-Header-Content-Length has to be one number, of 0 to {length}")
    return int(told[0])


def _rewritten(text: bytes, request_bytes: int) -> bytes:
    try:
        return rewritten(text, request_bytes=request_bytes) if text else text
    except ValueError as error:
        raise Refusal(400, str(error)) from error


def error_body(problem: str) -> bytes:
    return json.dumps({"error": problem}).encode()
