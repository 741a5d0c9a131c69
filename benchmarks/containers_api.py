"""Lambda's side of a function's container: the Runtime API, on loopback, for one container at a time.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, of 2018-06-01. Times are nanoseconds since the epoch,
as Docker tells a container's start.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

from local.processes import LOOPBACK

PREFIX = "/2018-06-01/runtime/"
_INVOCATION = "invocation/"
_LOOK_SECONDS = 0.2

Kind = Literal["response", "error", "init_error"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a function said. taken_ns: when it was given the event; for an error of INIT, when that came."""

    kind: Kind
    body: bytes
    taken_ns: int
    answered_ns: int

    @property
    def seconds(self) -> float:
        """How long the function had the event: what Lambda bills, but for INIT."""
        return (self.answered_ns - self.taken_ns) / 1e9

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


class RuntimeApi:
    """Serves one container. Use as a context manager; events may be given before the container starts."""

    def __init__(self, *, timeout_seconds: float, function: str = "embakery") -> None:
        """Bind a free port. timeout_seconds: the function's own, from when it takes an event."""
        self.ready_ns: int | None = None
        self._timeout_seconds = timeout_seconds
        self._arn = f"arn:aws:lambda:us-east-1:000000000000:function:{function}"
        self._events: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._taken: dict[str, int] = {}
        self._closed = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_LOOK_SECONDS,), daemon=True)

    @property
    def address(self) -> str:
        """Host and port, for AWS_LAMBDA_RUNTIME_API."""
        return f"{LOOPBACK}:{self._server.server_address[1]}"

    def give(self, event: object) -> None:
        """Let the function take this event next."""
        self._events.put(json.dumps(event, ensure_ascii=False).encode())

    def next_answer(self, *, wait_seconds: float) -> Answer | None:
        """Return the next answer, None if there is none in that time."""
        try:
            return self._answers.get(timeout=wait_seconds)
        except queue.Empty:
            return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self) -> tuple[dict[str, str], bytes] | None:
        """Wait for an event; return the headers that go with it, and it. None once closed."""
        if self.ready_ns is None:
            self.ready_ns = time.time_ns()
        while not self._closed.is_set():
            try:
                event = self._events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            request_id = str(uuid.uuid4())
            now = self._taken[request_id] = time.time_ns()
            headers = {
                "Lambda-Runtime-Aws-Request-Id": request_id,
                "Lambda-Runtime-Deadline-Ms": str(round(now / 1e6 + self._timeout_seconds * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": self._arn,
                "Lambda-Runtime-Trace-Id": f"Root=1-{now // 10**9:08x}-{request_id.replace('-', '')[:24]};Sampled=0",
            }
            return headers, event
        return None

    def accept(self, path: str, body: bytes) -> bool:
        """Note what is posted to a path under PREFIX; return whether the path and the invocation are known."""
        now = time.time_ns()
        if path == "init/error":
            self._answers.put(Answer("init_error", body, now, now))
            return True
        request_id, _, kind = path.removeprefix(_INVOCATION).partition("/")
        if not path.startswith(_INVOCATION) or kind not in ("response", "error") or request_id not in self._taken:
            return False
        self._answers.put(Answer("response" if kind == "response" else "error", body, self._taken.pop(request_id), now))
        return True


class _Server(ThreadingHTTPServer):
    # A container that was killed may leave a request hanging: it must not hold us.
    daemon_threads = True
    block_on_close = False

    def __init__(self, api: RuntimeApi) -> None:
        self.api = api
        super().__init__((LOOPBACK, 0), _Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing: containers are killed while they wait for an event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: two of them would wait for each other.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path != f"{PREFIX}invocation/next":
            self._answer(HTTPStatus.NOT_FOUND, {}, b"{}")
            return
        taken = self.server.api.take()
        if taken is None:
            self.close_connection = True
            return
        self._answer(HTTPStatus.OK, *taken)

    def do_POST(self) -> None:
        body = self._body()
        known = self.path.startswith(PREFIX) and self.server.api.accept(self.path.removeprefix(PREFIX), body)
        self._answer(HTTPStatus.ACCEPTED if known else HTTPStatus.NOT_FOUND, {}, b'{"status":"OK"}' if known else b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: HTTPStatus, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Type": "application/json", "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
