"""Relays one gRPC client's connection: checks the length of each message, and passes all else on unchanged.

It reads HTTP/2 frames and the five bytes that gRPC puts before each message. It does not read headers, which
HTTP/2 compresses. A call ends with a gRPC status when a message is too long, or compressed, which hides its
length.

References:
    RFC 9113, HTTP/2, sections 4.1, 6 and 8.1; RFC 7541, HPACK header compression, section 6.2.2; gRPC over
    HTTP/2, github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from deploykit.serving.proxy.relay import READ_BYTES, ProxyState

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 7, 8, 9
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
_NO_ERROR, _CANCEL = 0, 8
_RESOURCE_EXHAUSTED, _UNIMPLEMENTED = 8, 12  # gRPC status codes
_HEAD_BYTES, _PREFIX_BYTES = 9, 5
_FRAME_BYTES = 2**22  # SETTINGS_MAX_FRAME_SIZE of Triton 2.51
_GOODBYE_S = 2.0  # how long a client has to close its connection after GOAWAY


@dataclass(frozen=True, slots=True)
class Frame:
    """An HTTP/2 frame. Attributes: encoded: Head and payload."""

    kind: int
    flags: int
    stream: int
    encoded: bytes

    @property
    def payload(self) -> memoryview:
        return memoryview(self.encoded)[_HEAD_BYTES:]


@dataclass(frozen=True, slots=True)
class _CallError:
    """How a refused call ends.

    Attributes:
        status: A gRPC status code.
        problem: ASCII, at most 126 bytes.
    """

    status: int
    problem: str

    def frames(self, stream: int, *, is_answered: bool) -> bytes:
        """Return frames that end the call and tell the client to stop sending.

        Args:
            is_answered: Whether its answer had begun.
        """
        begin = {} if is_answered else {":status": "200", "content-type": "application/grpc"}
        headers = {**begin, "grpc-status": str(self.status), "grpc-message": self.problem}
        block = b"".join(map(encoded_header, headers, headers.values()))
        ended = encoded_frame(HEADERS, stream, block, flags=END_HEADERS | END_STREAM)
        return ended + encoded_frame(RST_STREAM, stream, struct.pack(">I", _NO_ERROR))


_COMPRESSED = _CallError(_UNIMPLEMENTED, "compressed messages are refused: their length is unknown")
_PADDED = _CallError(_UNIMPLEMENTED, "padded messages are refused")


@dataclass(slots=True)
class _Call:
    """How far a call's client has got.

    Attributes:
        left: Bytes still to come of the current message.
        is_answered: Whether its answer has begun.
    """

    left: int = 0
    prefix: bytearray = field(default_factory=bytearray)
    is_answered: bool = False

    def error(self, payload: memoryview, most: int) -> _CallError | None:
        """Return why a message that begins in this payload is refused; None where all pass."""
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
                    return _COMPRESSED
                if self.left > most:
                    problem = f"a message of {self.left} bytes exceeds the limit of {most}"
                    return _CallError(_RESOURCE_EXHAUSTED, problem)
        return None


class GrpcRelay:
    """One gRPC client's connection and the connection to Triton that serves it."""

    def __init__(self, proxy: ProxyState, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._most_bytes = proxy.limits.body_bytes
        self._calls: dict[int, _Call] = {}
        self._newest = 0
        self._last: int | None = None  # the last call to pass on, once the connection is finishing

    async def serve(self) -> None:
        async with asyncio.timeout(self._proxy.limits.idle_s):
            if await self._reader.readexactly(len(PREFACE)) != PREFACE:
                return
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._proxy.upstream_port, limit=READ_BYTES
        )
        writer.write(PREFACE)
        pumps = {
            asyncio.ensure_future(self._pass_requests(writer)),
            asyncio.ensure_future(self._pass_answers(reader)),
        }
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
        """Tell the client that no further calls are accepted; those already made are answered."""
        self._last = self._newest
        self._writer.write(encoded_frame(GOAWAY, 0, struct.pack(">II", self._newest, _NO_ERROR)))
        self._close_when_done()

    async def _pass_requests(self, triton: asyncio.StreamWriter) -> None:
        async for frames in _batches(self._reader, most_bytes=_FRAME_BYTES):
            triton.write(b"".join(map(self._for_triton, frames)))
            await triton.drain()
            await self._drain()  # of what refusals wrote
            self._close_when_done()

    async def _pass_answers(self, triton: asyncio.StreamReader) -> None:
        async for frames in _batches(triton):
            self._writer.write(b"".join(each.encoded for each in frames))
            for each in frames:
                if each.kind == HEADERS and each.stream in self._calls:
                    self._calls[each.stream].is_answered = True
                if each.kind == RST_STREAM or (each.kind in (DATA, HEADERS) and each.flags & END_STREAM):
                    self._calls.pop(each.stream, None)
            await self._drain()
            self._close_when_done()

    async def _drain(self) -> None:
        """Wait until the client reads, and give up on one that does not."""
        async with asyncio.timeout(self._proxy.limits.idle_s):
            await self._writer.drain()

    def _for_triton(self, frame: Frame) -> bytes:
        """Return what to send Triton for a frame: the frame, nothing, or the end of its call."""
        if frame.kind in (HEADERS, CONTINUATION):
            return frame.encoded if self._begins(frame) else b""
        if frame.kind == RST_STREAM:
            return b"" if self._calls.pop(frame.stream, None) is None else frame.encoded
        if frame.kind != DATA:
            return frame.encoded
        call, ended = self._calls.get(frame.stream), b""
        if call is not None:
            error = _PADDED if frame.flags & PADDED else call.error(frame.payload, self._most_bytes)
            if error is None:
                return frame.encoded
            ended = self._refuse(frame.stream, call, error)
        # Triton does not see data of a call that was answered, refused or came too late, so it will not give
        # back the part of the connection's flow-control window that they took.
        if len(frame.payload):
            self._writer.write(encoded_frame(WINDOW_UPDATE, 0, struct.pack(">I", len(frame.payload))))
        return ended

    def _begins(self, frame: Frame) -> bool:
        """Register the call that a frame begins; return False if it comes too late."""
        if frame.stream % 2 == 0:
            raise ConnectionError("a client's streams are odd")  # RFC 9113, section 5.1.1
        if self._is_too_late(frame):
            return False
        if frame.kind == HEADERS and frame.stream > self._newest:
            self._newest = frame.stream
            self._calls[frame.stream] = _Call()
            self._proxy.requests += 1
        return True

    def _is_too_late(self, frame: Frame) -> bool:
        return self._last is not None and frame.stream > self._last

    def _refuse(self, stream: int, call: _Call, error: _CallError) -> bytes:
        """Tell the client, and return the frame that tells Triton."""
        self._calls.pop(stream)
        self._writer.write(error.frames(stream, is_answered=call.is_answered))
        return encoded_frame(RST_STREAM, stream, struct.pack(">I", _CANCEL))

    def _close_when_done(self) -> None:
        """Close a finished connection; most clients do so themselves after GOAWAY."""
        if self._last is not None and not self._calls:
            asyncio.get_running_loop().call_later(_GOODBYE_S, self._writer.close)


async def _batches(reader: asyncio.StreamReader, *, most_bytes: int = 2**24) -> AsyncIterator[list[Frame]]:
    """Yield complete frames as they arrive.

    Raises:
        ConnectionError: A frame is longer than most_bytes.
    """
    left = bytearray()
    while read := await reader.read(READ_BYTES):
        left += read
        frames = list(_frames(left, most_bytes))
        del left[: sum(len(each.encoded) for each in frames)]
        if frames:
            yield frames


def _frames(text: bytearray, most_bytes: int) -> Iterator[Frame]:
    at = 0
    while len(text) - at >= _HEAD_BYTES:
        high, low, kind, flags, stream = struct.unpack_from(">BHBBI", text, at)
        length = high << 16 | low
        if length > most_bytes:
            raise ConnectionError("the frame is longer than Triton accepts")
        end = at + _HEAD_BYTES + length
        if end > len(text):
            return
        yield Frame(kind, flags, stream & 0x7FFFFFFF, bytes(text[at:end]))
        at = end


def encoded_frame(kind: int, stream: int, payload: bytes, *, flags: int = 0) -> bytes:
    """Encode an HTTP/2 frame with a payload of up to 64 KiB."""
    return struct.pack(">BHBBI", 0, len(payload), kind, flags, stream) + payload


def encoded_header(name: str, value: str) -> bytes:
    """Encode a header as a literal without indexing, which leaves both ends' HPACK tables unchanged."""
    return b"\0" + b"".join(struct.pack("B", len(each)) + each.encode("ascii") for each in (name, value))
