"""Servers that answer a function as AWS or Redis do where something is wrong; each on a free port of the loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from local.processes import LOOPBACK


class RefusingAws:
    """An AWS service that answers every call with `refusal` (HTTP status and code), or else with `content`."""

    def __init__(self) -> None:
        self.refusal: tuple[int, str] | None = None
        self.content: dict[str, str] = {}
        self.calls = 0
        self.url = ""

    def answer(self, *, as_json: bool) -> tuple[int, str]:
        """Return a status and a body, in the words of a JSON service or of S3."""
        self.calls += 1
        if self.refusal is None:
            return 200, json.dumps(self.content) if as_json else ""
        status, code = self.refusal
        if as_json:
            return status, json.dumps({"__type": f"com.amazonaws#{code}", "message": "of no use to anyone"})
        return status, f"<Error><Code>{code}</Code><Message>of no use to anyone</Message></Error>"


@contextlib.contextmanager
def refusing_aws() -> Iterator[RefusingAws]:
    """Serve until the end of the block."""
    service = RefusingAws()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = service.answer(as_json="X-Amz-Target" in self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 301:
                self.send_header("x-amz-bucket-region", "eu-west-1")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_HEAD = do_PUT = do_POST = _respond  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    service.url = f"http://{LOOPBACK}:{server.server_port}"
    with _running(server.serve_forever):
        yield service
        server.shutdown()
    server.server_close()


@contextlib.contextmanager
def stubborn_redis(answer: bytes | None, *, hangs_up: bool = False) -> Iterator[str]:
    """Take connections and answer whatever is said with the same bytes, or with nothing; yield the address."""
    listener = socket.create_server((LOOPBACK, 0))
    taken: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                taken.append(connection)
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                if answer is not None:
                    connection.sendall(answer)
                if hangs_up:
                    connection.shutdown(socket.SHUT_RDWR)

    with _running(serve):
        yield f"{LOOPBACK}:{listener.getsockname()[1]}"
        # A blocked accept is not woken by closing alone.
        listener.shutdown(socket.SHUT_RDWR)
    for one in (listener, *taken):
        one.close()


@contextlib.contextmanager
def _running(work: object) -> Iterator[None]:
    assert callable(work)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join()
