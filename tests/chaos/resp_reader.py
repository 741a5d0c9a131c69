"""Redis's protocol, as far as a proxy must know it: where a command or an answer ends.

See https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import socket

CHUNK = 1 << 18


class RespReader:
    """Cuts what comes on a socket into whole RESP values, kept as bytes."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._buffer = bytearray()

    def burst(self) -> list[bytes]:
        """Wait for a value and return it with those that came with it. Raises EOFError, OSError."""
        values = [self.value()]
        while self._buffer:
            values.append(self.value())
        return values

    def value(self) -> bytes:
        """Wait for a value. Raises EOFError, OSError."""
        end = self._end_of_value(0)
        value = bytes(self._buffer[:end])
        del self._buffer[:end]
        return value

    def _end_of_value(self, start: int) -> int:
        end = self._end_of_line(start)
        kind, length = self._buffer[start : start + 1], bytes(self._buffer[start + 1 : end - 2])
        if kind in b"$=!":
            # A length of -1 is null.
            end += int(length) + 2 if int(length) >= 0 else 0
            self._fill(end)
        elif kind in b"*~>%":
            for _ in range(int(length) * (2 if kind == b"%" else 1)):
                end = self._end_of_value(end)
        return end

    def _end_of_line(self, start: int) -> int:
        searched = start
        while (found := self._buffer.find(b"\r\n", searched)) < 0:
            searched = max(start, len(self._buffer) - 1)
            self._fill(len(self._buffer) + 1)
        return found + 2

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            received = self._source.recv(CHUNK)
            if not received:
                raise EOFError
            self._buffer += received


def command_name(command: bytes) -> bytes:
    """Return the first word of a command, in capitals."""
    words = command.split(b"\r\n", 3)
    return (words[2] if command.startswith(b"*") else words[0].split(b" ")[0]).upper()
