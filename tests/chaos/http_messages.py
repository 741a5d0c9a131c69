"""HTTP/1.1 messages taken from a socket and kept as bytes: heads, and bodies by length, in chunks or to the end."""

from __future__ import annotations

import socket
from dataclasses import dataclass

_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Head:
    """A message's first line and headers, as sent (`raw`, the empty line included) and by lower-case name."""

    raw: bytes
    first_line: str
    headers: dict[str, str]

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks, with trailers perhaps."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        """The body's length in bytes, if it says so."""
        text = self.headers.get("content-length")
        return None if text is None else int(text)

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this message."""
        return self.headers.get("connection", "").lower() == "close"


class MessageReader:
    """Reads messages from one side of a connection. Raises EOFError where it ended too early, and OSError."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._buffer = bytearray()

    def head(self) -> Head:
        """Read up to the empty line."""
        raw = self._until(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        fields = (line.partition(":") for line in lines)
        return Head(raw, first, {name.strip().lower(): value.strip() for name, _, value in fields})

    def body(self, head: Head, *, to_the_end: bool) -> bytes:
        """Read the body as it is on the wire. Without length or chunks there is none, or with `to_the_end` all."""
        if head.is_chunked:
            return self._chunks()
        if head.length is not None:
            return self._exactly(head.length)
        return self._rest() if to_the_end else b""

    def _chunks(self) -> bytes:
        parts = []
        while True:
            line = self._until(b"\r\n")
            parts.append(line)
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            parts.append(self._exactly(size + 2))
        # Trailers, to an empty line.
        while parts[-1] != b"\r\n":
            parts.append(self._until(b"\r\n"))
        return b"".join(parts)

    def _until(self, end: bytes) -> bytes:
        searched = 0
        while (found := self._buffer.find(end, searched)) < 0:
            searched = max(0, len(self._buffer) - len(end))
            self._receive()
        return self._take(found + len(end))

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        return self._take(size)

    def _rest(self) -> bytes:
        try:
            while True:
                self._receive()
        except EOFError:
            return self._take(len(self._buffer))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _receive(self) -> None:
        received = self._source.recv(_CHUNK)
        if not received:
            raise EOFError
        self._buffer += received
