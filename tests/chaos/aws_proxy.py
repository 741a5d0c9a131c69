"""An HTTP proxy in front of an AWS emulator, which injects faults by seed and service at rates that can be switched.

    with FaultyAws(endpoint_url, seed=1) as proxy:
        proxy.set_rates(Service.S3, Rates(throttled=0.1, reset_after=0.05))
        client = boto3.client("s3", endpoint_url=proxy.url)

Requests and answers are read whole and passed on as they came, byte for byte, but for `Expect: 100-continue`, which the
proxy answers itself.
"""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import struct
import threading
import urllib.parse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aws_faults import Rates, Service, Trouble, refuse
from http_messages import Head, MessageReader

LOOPBACK = "127.0.0.1"
_CREDENTIAL = re.compile(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request")
_EXPECT = re.compile(rb"\r\nexpect:[^\r\n]*", re.IGNORECASE)
_TARGETS = {"DynamoDB_": Service.DYNAMODB, "AmazonSQS.": Service.SQS}
_NO_TROUBLE = Rates()


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to a request: its trouble, which of its kind it is, from 1, and how late its answer is if slow."""

    trouble: Trouble | None = None
    number: int = 0
    slow_seconds: float = 0.0


_NO_FATE = Fate()


class FaultyAws:
    """The proxy, on a free loopback port. Every method is safe from any thread."""

    def __init__(self, target_url: str, *, seed: int = 0) -> None:
        """Listen. Each service draws its faults from a sequence of its own, which `seed` decides."""
        target = urllib.parse.urlsplit(target_url)
        self.target = (target.hostname or LOOPBACK, target.port or 80)
        self._rates: dict[Service, Rates] = {}
        self._sources = {service: random.Random(f"{seed}/{service.value}") for service in Service}
        self._requests: Counter[Service] = Counter()
        self._injected: Counter[tuple[Service, Trouble]] = Counter()
        self._accepted = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """What to give boto3 as its endpoint."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def requests(self) -> Counter[Service]:
        """How many requests came for each service."""
        with self._lock:
            return self._requests.copy()

    @property
    def injected(self) -> Counter[tuple[Service, Trouble]]:
        """How many of them met each trouble."""
        with self._lock:
            return self._injected.copy()

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        with self._lock:
            return self._accepted

    def set_rates(self, service: Service, rates: Rates) -> None:
        """Change how often what goes wrong with a service, from now on."""
        with self._lock:
            self._rates[service] = rates

    def heal(self) -> None:
        """Inject nothing more."""
        with self._lock:
            self._rates.clear()

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def draw(self, service: Service) -> Fate:
        """Decide what happens to the next request."""
        with self._lock:
            rates = self._rates.get(service, _NO_TROUBLE)
            trouble = rates.draw(self._sources[service])
            self._requests[service] += 1
            if trouble is None:
                return _NO_FATE
            self._injected[service, trouble] += 1
            return Fate(trouble, self._injected[service, trouble], rates.slow_seconds)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the proxy closes."""
        self._closing.wait(seconds)

    def forget(self, connection: _Connection) -> None:
        """A connection has ended."""
        with self._lock:
            self._connections.discard(connection)

    def close(self) -> None:
        """Hang up on everybody and wait until every connection's thread has ended."""
        self._closing.set()
        # Wakes the thread in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.hang_up()
        for connection in connections:
            connection.thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self, client)
            with self._lock:
                self._connections.add(connection)
                self._accepted += 1
            connection.thread.start()


class _Connection:
    """One client, served by one thread, with one connection to the target, both kept alive."""

    def __init__(self, proxy: FaultyAws, client: socket.socket) -> None:
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self._proxy = proxy
        self._client = client
        self._server: socket.socket | None = None

    def hang_up(self) -> None:
        """End the connection from another thread."""
        for side in (self._client, self._server):
            if side is not None:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        requests = MessageReader(self._client)
        try:
            while self._serve_one(requests):
                pass
        except (OSError, EOFError):
            # The client went away, or the target did: the client sees its connection end.
            pass
        finally:
            self._client.close()
            if self._server is not None:
                self._server.close()
            self._proxy.forget(self)

    def _serve_one(self, requests: MessageReader) -> bool:
        """Take one request through; return whether the connection stays."""
        head = requests.head()
        if "expect" in head.headers:
            self._client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = requests.body(head, to_the_end=False)
        service = service_of(head)
        fate = self._proxy.draw(service)
        trouble = fate.trouble
        if trouble is Trouble.RESET_BEFORE:
            return self._reset()
        if trouble in (Trouble.THROTTLED, Trouble.INTERNAL_ERROR):
            is_head = head.first_line.startswith("HEAD ")
            self._client.sendall(refuse(service, trouble, number=fate.number, head_only=is_head, close=head.closes))
            return not head.closes
        answer, stays = self._forward(head, body)
        if trouble is Trouble.RESET_AFTER:
            return self._reset()
        if trouble is Trouble.SLOW:
            self._proxy.wait(fate.slow_seconds)
        self._client.sendall(answer)
        return stays and not head.closes

    def _forward(self, head: Head, body: bytes) -> tuple[bytes, bool]:
        """Return the target's answer, and whether both sides may go on with this connection."""
        server = self._connected()
        server.sendall(_EXPECT.sub(b"", head.raw, count=1) + body)
        answers = MessageReader(server)
        answer = answers.head()
        while answer.first_line.split(" ", 2)[1].startswith("1"):
            answer = answers.head()
        status = answer.first_line.split(" ", 2)[1]
        has_body = not head.first_line.startswith("HEAD ") and status not in ("204", "304")
        content = answers.body(answer, to_the_end=True) if has_body else b""
        ends = answer.closes or (has_body and answer.length is None and not answer.is_chunked)
        if ends:
            server.close()
            self._server = None
        return answer.raw + content, not ends

    def _connected(self) -> socket.socket:
        """Return the connection to the target: the last one, unless the target has ended it."""
        if self._server is not None and select.select([self._server], [], [], 0)[0]:
            # Between two requests there is nothing to read but the end.
            self._server.close()
            self._server = None
        if self._server is None:
            self._server = socket.create_connection(self._proxy.target)
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._proxy.is_closing:
            # It may have looked for connections to end before this one was there.
            raise EOFError
        return self._server

    def _reset(self) -> bool:
        # No lingering: close sends RST.
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


def service_of(head: Head) -> Service:
    """Tell whom a signed request is for: by its credential's scope, else by its target; S3 needs neither."""
    query = urllib.parse.unquote(head.first_line.split(" ")[1].partition("?")[2])
    scope = _CREDENTIAL.search(head.headers.get("authorization", "") or query)
    if scope is not None:
        return _service_named(scope[1])
    target = head.headers.get("x-amz-target", "")
    return next((service for prefix, service in _TARGETS.items() if target.startswith(prefix)), _by_host(head.headers))


def _service_named(name: str) -> Service:
    return Service(name) if name in {service.value for service in Service} else Service.OTHER


def _by_host(headers: Mapping[str, str]) -> Service:
    words = headers.get("host", "").partition(":")[0].split(".")
    named = [_service_named(word) for word in words]
    return next((service for service in named if service is not Service.OTHER), Service.S3)
