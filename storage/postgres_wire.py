"""What psycopg leaves to its users: float32 arrays in binary, and an end to waiting for a silent server."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import pq
from psycopg.adapt import Dumper

from embakery.vectors import Vector

_FLOAT4_OID = 700
_FLOAT4_ARRAY_OID = 1021
_ELEMENT = np.dtype([("length", ">i4"), ("value", ">f4")])


@dataclass(frozen=True, slots=True)
class Float4Array:
    """A vector, float32 (dim,), to be sent as `real[]`: psycopg would send a list of numbers as float8."""

    vector: Vector


class _Float4ArrayDumper(Dumper):
    """Postgres's binary array (array_send): dimensions, nulls, element type; size, lower bound; length, value, ..."""

    format = pq.Format.BINARY
    oid = _FLOAT4_ARRAY_OID

    def dump(self, obj: Float4Array) -> bytes:
        size = obj.vector.shape[0]
        elements = np.empty(size, dtype=_ELEMENT)
        elements["length"] = 4
        elements["value"] = obj.vector
        return np.array([1, 0, _FLOAT4_OID, size, 1], dtype=">i4").tobytes() + elements.tobytes()


def register_float4_array(connection: psycopg.Connection[Any]) -> None:
    """Let a connection take `Float4Array` as a parameter."""
    connection.adapters.register_dumper(Float4Array, _Float4ArrayDumper)


@contextmanager
def close_socket_after(connection: psycopg.Connection[Any], *, seconds: float) -> Iterator[None]:
    """Shut the connection's socket if the block takes longer: whoever waits on it then gets OperationalError.

    libpq has timeouts for connecting and for unanswered packets, none for a server that is there and does not answer.
    """
    # A file descriptor of our own: the connection's number may be another file's by then.
    descriptor = os.dup(connection.fileno())

    def shut() -> None:
        with socket.socket(fileno=os.dup(descriptor)) as twin, suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        os.close(descriptor)
