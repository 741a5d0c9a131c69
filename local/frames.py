"""What a function host and its parent say to each other: frames of a kind, a length and JSON, on a pipe each way.

A frame is one byte for its kind, four bytes for the payload's length (big endian) and the payload, UTF-8 JSON.
"""

from __future__ import annotations

import enum
import os
import selectors
import struct
import time
from dataclasses import dataclass
from typing import Final

_HEADER: Final = struct.Struct(">cI")
_CHUNK = 1 << 16


class Kind(bytes, enum.Enum):
    """What a frame carries."""

    READY = b"R"  # host to parent: the handler is loaded
    INVOKE = b"I"  # parent to host: {"context": {...}, "event": ...}
    RESULT = b"O"  # host to parent: the handler's response
    ERROR = b"E"  # host to parent: {"errorType", "errorMessage", "stackTrace"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    kind: Kind
    payload: bytes


class PeerGoneError(Exception):
    """The other end closed its pipe."""


class DeadlinePassedError(Exception):
    """The frame was not through by the deadline."""


def write_frame(descriptor: int, frame: Frame, *, deadline: float | None = None) -> None:
    """Write the whole frame by `deadline` (time.monotonic; None waits for ever).

    With a deadline the descriptor must be non-blocking. Raises PeerGoneError, DeadlinePassedError.
    """
    rest = memoryview(_HEADER.pack(frame.kind.value, len(frame.payload)) + frame.payload)
    while rest:
        _wait(descriptor, selectors.EVENT_WRITE, deadline)
        try:
            rest = rest[os.write(descriptor, rest[:_CHUNK]) :]
        except BlockingIOError:
            # Ready for less than a chunk: wait again.
            continue
        except BrokenPipeError as error:
            raise PeerGoneError from error


def read_frame(descriptor: int, *, deadline: float | None = None) -> Frame:
    """Read one frame by `deadline` (time.monotonic; None waits for ever). Raises PeerGoneError, DeadlinePassedError."""
    kind, length = _HEADER.unpack(_read_exactly(descriptor, _HEADER.size, deadline))
    return Frame(Kind(kind), _read_exactly(descriptor, length, deadline))


def _read_exactly(descriptor: int, size: int, deadline: float | None) -> bytes:
    parts: list[bytes] = []
    while size:
        _wait(descriptor, selectors.EVENT_READ, deadline)
        part = os.read(descriptor, min(size, _CHUNK))
        if not part:
            raise PeerGoneError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _wait(descriptor: int, event: int, deadline: float | None) -> None:
    if deadline is None:
        return
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, event)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise DeadlinePassedError
