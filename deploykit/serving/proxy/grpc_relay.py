"""One gRPC client's connection to the gate: its messages' lengths looked at, else passed on as it is.

What is read is HTTP/2's frames and gRPC's five bytes before each message; headers, which HTTP/2 compresses,
are not. A message that is too long, or compressed, which hides how long it is, ends its call with a status
of gRPC's.

References:
    RFC 9113, HTTP/2, sections 4.1, 6 and 8.1; RFC 7541, its compression of headers, section 6.2.2; gRPC over
    HTTP/2, github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploykit.serving.proxy.http_relay import CHUNK_BYTES

if TYPE_CHECKING:
    from deploykit.serving.proxy.proxy import Gate

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 7, 8, 9
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
_NO_ERROR, _CANCEL = 0, 8
_RESOURCE_EXHAUSTED, _UNIMPLEMENTED = 8, 12  # gRPC's
_HEAD_BYTES, _PREFIX_BYTES = 9, 5
_FRAME_BYTES = 2**22  # SETTINGS_MAX_FRAME_SIZE of Triton 2.51
_FAREWELL_S = 2.0  # that a client has to close a connection, once told


@dataclass(frozen=True, slots=True)
class Frame:
    """Attributes: whole: head and payload."""

    kind: int
    flags: int
    stream: int
    whole: bytes

    @property
    def payload(self) -> memoryview:
        return memoryview(self.whole)[_HEAD_BYTES:]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """How a call ends. Attributes: status: a code of gRPC's; problem: plain ASCII, of 126 bytes at most."""

    status: int
    problem: str

    def frames(self, stream: int, *, is_answered: bool) -> bytes:
        """The call's end, and that nothing more need be sent; is_answered: its answer had begun."""
        begin = {} if is_answered else {":status": "200", "content-type": "application/grpc"}
        headers = {**begin, "grpc-status": str(self.status), "grpc-message": self.problem}
        block = b"".join(map(encoded_header, headers, headers.values()))
        ended = encoded_frame(HEADERS, stream, block, flags=END_HEADERS | END_STREAM)
        return ended + encoded_frame(RST_STREAM, stream, struct.pack(">I", _NO_ERROR))


_COMPRESSION = _Refusal(_UNIMPLEMENTED, "compressed messages are not taken, whose length is not known")
_PADDING = _Refusal(_UNIMPLEMENTED, "padded messages are not taken")


@dataclass(slots=True)
class _Call:
    """Where it is in what its client sends.

    Attributes: left: bytes of the message that is being sent; is_answered: its answer has begun.
    """

    left: int = 0
    prefix: bytearray = field(default_factory=bytearray)
    is_answered: bool = False

    def refusal(self, payload: memoryview, most: int) -> _Refusal | None:
        """Why not all messages that begin in a payload may be passed on; None where they may."""
        at = 0
        while at < len(payload):
            if self.left:
                step = min(self.left, len(payload) - at)
                self.left -= step
            else:
                step = min(_PREFIX_BYTES - len(self.prefix), len(payload) - at)
                self.prefix += payload[at : at + step]
            at += step
            if len(self.prefix) == _PREFIX_BYTES:
                is_compressed, self.left = struct.unpack(">BI", self.prefix)
                self.prefix.clear()
                if is_compressed:
                    return _COMPRESSION
                if self.left > most:
                    problem = f"a message of {self.left} bytes is more than the {most} that are taken"
                    return _Refusal(_RESOURCE_EXHAUSTED, problem)
        return None


class GrpcRelay:
    """A connection of a client's, and one to Triton for it."""

    def __init__(self, gate: "Gate", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._gate, self._reader, self._writer = gate, reader, writer
        self._most_bytes = gate.limits.body_bytes
        self._calls: dict[int, _Call] = {}
        self._newest = 0
        self._last: int | None = None  # call that is passed on, once there shall be no more

    async def serve(self) -> None:
        async with asyncio.timeout(self._gate.limits.idle_s):
            if await self._reader.readexactly(len(PREFACE)) != PREFACE:
                return
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._gate.upstream_port, limit=CHUNK_BYTES
        )
        writer.write(PREFACE)
        pumps = {asyncio.ensure_future(self._ask(writer)), asyncio.ensure_future(self._answer(reader))}
        try:
            ended, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for each in ended:
                each.result()
        finally:
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()

    def finish(self) -> None:
        """Tells the client that no further calls are taken; those that were are answered."""
        self._last = self._newest
        self._writer.write(encoded_frame(GOAWAY, 0, struct.pack(">II", self._newest, _NO_ERROR)))
        self._end_when_done()

    async def _ask(self, triton: asyncio.StreamWriter) -> None:
        async for frames in _batches(self._reader, most_bytes=_FRAME_BYTES):
            triton.write(b"".join(map(self._for_triton, frames)))
            await triton.drain()
            await self._drain()  # of what refusals say
            self._end_when_done()

    async def _answer(self, triton: asyncio.StreamReader) -> None:
        async for frames in _batches(triton):
            self._writer.write(b"".join(each.whole for each in frames))
            for each in frames:
                if each.kind == HEADERS and each.stream in self._calls:
                    self._calls[each.stream].is_answered = True
                if each.kind == RST_STREAM or (each.kind in (DATA, HEADERS) and each.flags & END_STREAM):
                    self._calls.pop(each.stream, None)
            await self._drain()
            self._end_when_done()

    async def _drain(self) -> None:
        """Ends the connection of a client that doesn't read."""
        async with asyncio.timeout(self._gate.limits.idle_s):
            await self._writer.drain()

    def _for_triton(self, frame: Frame) -> bytes:
        """What Triton gets to see of a frame: all, nothing, or that its call has ended."""
        if frame.kind in (HEADERS, CONTINUATION):
            return frame.whole if self._begins(frame) else b""
        if frame.kind == RST_STREAM:
            return b"" if self._calls.pop(frame.stream, None) is None else frame.whole
        if frame.kind != DATA:
            return frame.whole
        call, ended = self._calls.get(frame.stream), b""
        if call is not None:
            refusal = _PADDING if frame.flags & PADDED else call.refusal(frame.payload, self._most_bytes)
            if refusal is None:
                return frame.whole
            ended = self._refuse(frame.stream, call, refusal)
        # Triton doesn't see it, of a call that was answered, refused or came too late, and so won't give back
        # what it took of the window.
        if len(frame.payload):
            self._writer.write(encoded_frame(WINDOW_UPDATE, 0, struct.pack(">I", len(frame.payload))))
        return ended

    def _begins(self, frame: Frame) -> bool:
        if frame.stream % 2 == 0:
            raise ConnectionError("a client's streams are odd")  # RFC 9113, section 5.1.1
        if self._is_too_late(frame):
            return False
        if frame.kind == HEADERS and frame.stream > self._newest:
            self._newest = frame.stream
            self._calls[frame.stream] = _Call()
            self._gate.requests += 1
        return True

    def _is_too_late(self, frame: Frame) -> bool:
        return self._last is not None and frame.stream > self._last

    def _refuse(self, stream: int, call: _Call, refusal: _Refusal) -> bytes:
        """Tells the client, and gives what tells Triton."""
        self._calls.pop(stream)
        self._writer.write(refusal.frames(stream, is_answered=call.is_answered))
        return encoded_frame(RST_STREAM, stream, struct.pack(">I", _CANCEL))

    def _end_when_done(self) -> None:
        """A client closes a connection that it was told is ending; one that does not is left."""
        if self._last is not None and not self._calls:
            asyncio.get_running_loop().call_later(_FAREWELL_S, self._writer.close)


async def _batches(reader: asyncio.StreamReader, *, most_bytes: int = 2**24) -> AsyncIterator[list[Frame]]:
    """Whole frames, as they come.

    Raises:
        ConnectionError: one is longer than may be.
    """
    left = bytearray()
    while read := await reader.read(CHUNK_BYTES):
        left += read
        frames = list(_frames(left, most_bytes))
        del left[: sum(len(each.whole) for each in frames)]
        if frames:
            yield frames


def _frames(text: bytearray, most_bytes: int) -> Iterator[Frame]:
    at = 0
    while len(text) - at >= _HEAD_BYTES:
        high, low, kind, flags, stream = struct.unpack_from(">BHBBI", text, at)
        length = high << 16 | low
        if length > most_bytes:
            raise ConnectionError("a frame is longer than Triton takes")
        end = at + _HEAD_BYTES + length
        if end > len(text):
            return
        yield Frame(kind, flags, stream & 0x7FFFFFFF, bytes(text[at:end]))
        at = end


def encoded_frame(kind: int, stream: int, payload: bytes, *, flags: int = 0) -> bytes:
    """One of HTTP/2's, of up to 64 KiB."""
    return struct.pack(">BHBBI", 0, len(payload), kind, flags, stream) + payload


def encoded_header(name: str, value: str) -> bytes:
    """A literal without indexing: it leaves what the two ends remember of headers as it is."""
    return b"\0" + b"".join(struct.pack("B", len(each)) + each.encode("ascii") for each in (name, value))
