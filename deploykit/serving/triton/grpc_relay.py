"""One gRPC client's connection to the gate: its messages' lengths looked at, else passed on as it is.

What is read is HTTP/2's frames and gRPC's five bytes before each message; headers, which HTTP/2 compresses,
are not. A message that is too long, or compressed, which hides how long it is, ends its call.

References:
    RFC 9113, HTTP/2, sections 4.1 and 6; gRPC over HTTP/2, github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploykit.serving.triton.relay import CHUNK_BYTES

if TYPE_CHECKING:
    from deploykit.serving.triton.gate import Gate

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 7, 8, 9
_END_STREAM, _PADDED = 0x1, 0x8
_NO_ERROR, _CANCEL, _ENHANCE_YOUR_CALM = 0, 8, 11  # the last is gRPC's RESOURCE_EXHAUSTED
_HEAD_BYTES, _PREFIX_BYTES = 9, 5
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


@dataclass(slots=True)
class _Messages:
    """Where a call is in what its client sends. Attributes: left: bytes of the message that is being sent."""

    left: int = 0
    prefix: bytearray = field(default_factory=bytearray)

    def admits(self, payload: memoryview, most: int) -> bool:
        """Whether all messages that begin in a payload may be passed on."""
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
                if is_compressed or self.left > most:
                    return False
        return True


class GrpcRelay:
    """A connection of a client's, and one to Triton for it."""

    def __init__(self, gate: "Gate", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._gate, self._reader, self._writer = gate, reader, writer
        self._calls: dict[int, _Messages] = {}
        self._refused: set[int] = set()
        self._newest = 0
        self._last: int | None = None  # call that is passed on, once there shall be no more

    async def serve(self) -> None:
        async with asyncio.timeout(self._gate.limits.idle_s):
            if await self._reader.readexactly(len(_PREFACE)) != _PREFACE:
                return
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._gate.upstream_port, limit=CHUNK_BYTES
        )
        writer.write(_PREFACE)
        pumps = {asyncio.ensure_future(self._ask(writer)), asyncio.ensure_future(self._answer(reader))}
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()

    def finish(self) -> None:
        """Tells the client that no further calls are taken; those that were are answered."""
        self._last = self._newest
        self._writer.write(_frame(_GOAWAY, 0, struct.pack(">II", self._newest, _NO_ERROR)))
        self._end_when_done()

    async def _ask(self, triton: asyncio.StreamWriter) -> None:
        async for frames in _batches(self._reader):
            passed = [each.whole for each in frames if self._passes(each, triton)]
            triton.write(b"".join(passed))
            await triton.drain()

    async def _answer(self, triton: asyncio.StreamReader) -> None:
        async for frames in _batches(triton):
            self._writer.write(b"".join(each.whole for each in frames))
            await self._writer.drain()
            for each in frames:
                if each.kind == _RST_STREAM or (each.kind in (_DATA, _HEADERS) and each.flags & _END_STREAM):
                    self._calls.pop(each.stream, None)
            self._end_when_done()

    def _passes(self, frame: Frame, triton: asyncio.StreamWriter) -> bool:
        if frame.kind in (_HEADERS, _CONTINUATION):
            return self._begins(frame)
        if frame.kind == _RST_STREAM:
            self._calls.pop(frame.stream, None)
            return frame.stream not in self._refused
        if frame.kind != _DATA:
            return True
        messages = self._calls.get(frame.stream)
        if messages is not None and not frame.flags & _PADDED:
            if messages.admits(frame.payload, self._gate.limits.body_bytes):
                return True
            self._refuse(frame.stream, triton)
        elif messages is None and frame.stream not in self._refused and not self._is_too_late(frame):
            return True  # for a call that was answered
        # Triton doesn't see it and so won't give back what it took of the window.
        if len(frame.payload):
            self._writer.write(_frame(_WINDOW_UPDATE, 0, struct.pack(">I", len(frame.payload))))
        return False

    def _begins(self, frame: Frame) -> bool:
        if self._is_too_late(frame):
            return False
        if frame.kind == _HEADERS and frame.stream > self._newest:
            self._newest = frame.stream
            self._calls[frame.stream] = _Messages()
            self._gate.requests += 1
        return True

    def _is_too_late(self, frame: Frame) -> bool:
        return self._last is not None and frame.stream > self._last

    def _refuse(self, stream: int, triton: asyncio.StreamWriter) -> None:
        self._refused.add(stream)
        self._calls.pop(stream, None)
        self._writer.write(_frame(_RST_STREAM, stream, struct.pack(">I", _ENHANCE_YOUR_CALM)))
        triton.write(_frame(_RST_STREAM, stream, struct.pack(">I", _CANCEL)))

    def _end_when_done(self) -> None:
        """A client closes a connection that it was told is ending; one that does not is left."""
        if self._last is not None and not self._calls:
            asyncio.get_running_loop().call_later(_FAREWELL_S, self._writer.close)


async def _batches(reader: asyncio.StreamReader) -> AsyncIterator[list[Frame]]:
    """Whole frames, as they come."""
    left = bytearray()
    while read := await reader.read(CHUNK_BYTES):
        left += read
        frames = list(_frames(left))
        del left[: sum(len(each.whole) for each in frames)]
        if frames:
            yield frames


def _frames(text: bytearray) -> Iterator[Frame]:
    at = 0
    while len(text) - at >= _HEAD_BYTES:
        high, low, kind, flags, stream = struct.unpack_from(">BHBBI", text, at)
        end = at + _HEAD_BYTES + (high << 16 | low)
        if end > len(text):
            return
        yield Frame(kind, flags, stream & 0x7FFFFFFF, bytes(text[at:end]))
        at = end


def _frame(kind: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">BHBBI", 0, len(payload), kind, 0, stream) + payload
