"""Lambda's Runtime API for one function, with the calls of SnapStart.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, of 2018-06-01. `restore/next` is not documented: it is
what awslambdaric calls when its hooks have run, and answered when the snapshot has been restored.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

PREFIX = "/2018-06-01/runtime/"
MEBIBYTE = 2**20


class RuntimeApi(ThreadingHTTPServer):
    """Use as a context manager. calls: what the function asked for and said, in order, without ids."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[str] = []
        self.snapshot, self.restored = threading.Event(), threading.Event()
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    @property
    def address(self) -> str:
        """For AWS_LAMBDA_RUNTIME_API."""
        return f"127.0.0.1:{self.server_address[1]}"

    def invoke(self, event: dict[str, Any], *, wait_seconds: float = 60) -> Any:
        """Give the function an event and return its answer."""
        self.events.put(event)
        kind, answer = self.answers.get(timeout=wait_seconds)
        assert kind == "response", answer
        return answer

    def handle_error(self, request: object, client_address: object) -> None:
        """A killed function leaves a request behind."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"
    wbufsize = MEBIBYTE

    def do_GET(self) -> None:
        call = self.path.removeprefix(PREFIX)
        self.server.calls.append(call)
        if call == "restore/next":
            self.server.snapshot.set()
            self.server.restored.wait()
            self._answer(200, {}, b"{}")
            return
        event = self.server.events.get()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
            "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + 20_000),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:embakery",
        }
        self._answer(200, headers, json.dumps(event).encode())

    def do_POST(self) -> None:
        *_, kind = self.path.split("/")
        self.server.calls.append(self.path.removeprefix(PREFIX) if kind == "error" else kind)
        self.server.answers.put((kind, json.loads(self._body())))
        # Nobody waits for a snapshot that is not coming.
        self.server.snapshot.set()
        self._answer(202, {}, b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
