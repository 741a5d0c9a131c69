"""A TCP proxy in front of a real Redis, with faults that can be switched at any moment.

    with FaultyRedis(target_port=6379) as proxy:
        backend = RedisBackend(proxy.url)
        proxy.switch(Mode.SLOW, delay_seconds=0.2)

Its protocol is RESP 2 and 3, requests and replies alone: no subscriptions, no pushes.
"""

from __future__ import annotations

import contextlib
import enum
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from resp_reader import CHUNK, RespReader, command_name

LOOPBACK = "127.0.0.1"
# A connection's own business, which a Redis that lies about data still does right.
_HANDSHAKE = frozenset({b"AUTH", b"CLIENT", b"HELLO", b"PING", b"SELECT"})
_WRITES = frozenset({b"APPEND", b"EVAL", b"HSET", b"INCR", b"MSET", b"PSETEX", b"RPUSH", b"SET", b"SETEX", b"SETNX"})
_KINDS = b"+-:$*_#,(!=%~>|"
_OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
_NOAUTH = b"-NOAUTH Authentication required.\r\n"
_WRONG_TYPES = (b":1\r\n", b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n")


class Mode(enum.Enum):
    """What is wrong. A command is answered by the mode that holds when it is answered, on whatever connection."""

    OFF = "off"
    REFUSED = "refused"  # nobody listens, and who was connected is hung up on, as when the server was killed
    SILENT = "silent"  # connects, reads, never answers; a connection that met it stays silent for ever
    SLOW = "slow"  # each answer comes so much after its command
    WRONG_TYPE = "wrong_type"  # in turn an integer and WRONGTYPE, for everything but the handshake
    OOM = "oom"  # writes are refused, reads work
    NOAUTH = "noauth"  # everything is refused
    RESET_MID_REPLY = "reset_mid_reply"  # half the answer of a command that was carried out, then RST
    GARBAGE = "garbage"  # random bytes, many of them almost an answer


@dataclass(frozen=True, slots=True)
class Fault:
    """A mode and, for `Mode.SLOW`, its delay."""

    mode: Mode = Mode.OFF
    delay_seconds: float = 0.0


class FaultyRedis:
    """The proxy, on a free loopback port. Every method is safe from any thread."""

    def __init__(self, target_port: int, *, seed: int = 0) -> None:
        """Listen. The target is connected to when a command is first passed on; `seed` decides the garbage."""
        self._target_port = target_port
        self._random = random.Random(seed)
        self._fault = Fault()
        self._injected: Counter[Mode] = Counter()
        self._changed = threading.Condition()
        self._connections: set[_Connection] = set()
        # Bound but not listening: while the listener is closed, nobody else gets the port.
        self._placeholder = _bound(0)
        self.port = int(self._placeholder.getsockname()[1])
        self._listener: socket.socket | None = None
        self._closed = False
        self._listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The proxy's URL, database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def fault(self) -> Fault:
        """What is wrong now."""
        with self._changed:
            return self._fault

    @property
    def injected(self) -> Counter[Mode]:
        """How many commands met each fault; for REFUSED, how many connections were hung up on (the kernel refuses)."""
        with self._changed:
            return self._injected.copy()

    def switch(self, mode: Mode, *, delay_seconds: float = 0.2) -> None:
        """Change what is wrong, from now on, for open connections as well."""
        with self._changed:
            self._fault = Fault(mode, delay_seconds if mode is Mode.SLOW else 0.0)
            self._changed.notify_all()
            if self._closed:
                return
            if mode is not Mode.REFUSED:
                self._listen()
                return
            self._hang_up()
            self._injected[mode] += len(self._connections)

    def close(self) -> None:
        """Hang up, give the port back and wait until every connection's thread has ended."""
        with self._changed:
            self._closed = True
            self._hang_up()
            self._changed.notify_all()
            threads = [connection.thread for connection in self._connections]
        for thread in threads:
            thread.join()
        self._placeholder.close()

    def count(self, mode: Mode, number: int = 1) -> None:
        """Count commands that met the fault."""
        with self._changed:
            self._injected[mode] += number

    def wait_for_switch(self, fault: Fault, seconds: float) -> None:
        """Wait so long, or until `fault` is no longer what is wrong."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fault != fault, seconds)

    def garbage(self) -> bytes:
        """Return some random bytes, half of them lines, half of them begun like an answer."""
        with self._changed:
            kind, end = self._random.choice((b"", _KINDS)), self._random.choice((b"", b"\r\n"))
            first = bytes(self._random.choices(kind)) if kind else b""
            number = str(self._random.randint(-9, 99)).encode() if self._random.random() < 0.5 else b""
            return first + number + self._random.randbytes(self._random.randint(0, 32)) + end

    def forget(self, connection: _Connection) -> None:
        """A connection has ended."""
        with self._changed:
            self._connections.discard(connection)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(128)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _hang_up(self) -> None:
        if self._listener is not None:
            # Wakes the thread in accept, which closes it.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            connection.hang_up()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                if self._listener is not listener:
                    client.close()
                    return
                connection = _Connection(self, client, self._target_port)
                self._connections.add(connection)
                connection.thread.start()


class _Connection:
    """One client, served by one thread: a burst of commands, then their answers in order."""

    def __init__(self, proxy: FaultyRedis, client: socket.socket, target_port: int) -> None:
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self._proxy = proxy
        self._client = client
        self._target_port = target_port
        self._server: socket.socket | None = None
        self._replies: RespReader | None = None
        self._answered = 0

    def hang_up(self) -> None:
        """End the connection from another thread."""
        for side in (self._client, self._server):
            if side is not None:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        commands = RespReader(self._client)
        try:
            while True:
                burst = commands.burst()
                self._answer(burst, arrived=time.monotonic())
        except (OSError, EOFError):
            # The client went away, the target did, or a fault hung up.
            pass
        finally:
            self._client.close()
            if self._server is not None:
                self._server.close()
            self._proxy.forget(self)

    def _answer(self, burst: Sequence[bytes], *, arrived: float) -> None:
        answers = [self._own_answer(command) for command in burst]
        self._pass_on([command for command, own in zip(burst, answers, strict=True) if own is None])
        for own in answers:
            self._send(own if own is not None else self._reply(), arrived)

    def _own_answer(self, command: bytes) -> bytes | None:
        """Return what the proxy answers itself, None for what Redis answers."""
        mode, name = self._proxy.fault.mode, command_name(command)
        answer: bytes | None = None
        if mode is Mode.NOAUTH:
            answer = _NOAUTH
        elif mode is Mode.OOM and name in _WRITES:
            answer = _OOM
        elif mode is Mode.WRONG_TYPE and name not in _HANDSHAKE:
            answer = _WRONG_TYPES[self._answered % len(_WRONG_TYPES)]
            self._answered += 1
        elif mode is Mode.GARBAGE:
            answer = self._proxy.garbage()
        elif mode is Mode.SILENT:
            self._fall_silent()
        if answer is not None:
            self._proxy.count(mode)
        return answer

    def _pass_on(self, commands: Sequence[bytes]) -> None:
        if not commands:
            return
        if self._server is None:
            self._server = socket.create_connection((LOOPBACK, self._target_port))
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._replies = RespReader(self._server)
        self._server.sendall(b"".join(commands))

    def _reply(self) -> bytes:
        if self._replies is None:
            raise EOFError
        return self._replies.value()

    def _send(self, answer: bytes, arrived: float) -> None:
        fault = self._proxy.fault
        if fault.mode is Mode.SLOW:
            self._proxy.count(fault.mode)
            self._proxy.wait_for_switch(fault, arrived + fault.delay_seconds - time.monotonic())
            fault = self._proxy.fault
        if fault.mode is Mode.SILENT:
            self._fall_silent()
        if fault.mode is Mode.RESET_MID_REPLY:
            self._proxy.count(fault.mode)
            self._client.sendall(answer[: len(answer) // 2])
            # No lingering: close sends RST.
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise EOFError
        self._client.sendall(answer)

    def _fall_silent(self) -> None:
        """Read and never answer, to the end: a late answer would be taken for that to a later command."""
        self._proxy.count(Mode.SILENT)
        while self._client.recv(CHUNK):
            pass
        raise EOFError


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((LOOPBACK, port))
    return bound
