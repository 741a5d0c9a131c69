"""Plays API Gateway: an HTTP server on the loopback interface before one function, and `GET /metrics` of our own."""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from waitress import wasyncore
from waitress.server import create_server

from local.errors import FunctionTimeoutError, InvocationError, PayloadTooLargeError, ThrottledError
from local.http_events import (
    HttpRequest,
    HttpResponse,
    MalformedResponseError,
    from_result,
    message_response,
    to_event,
)
from local.processes import LOOPBACK

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from waitress.server import BaseWSGIServer

# API Gateway's quotas: 10 MB for a request, and 29 s for an integration.
MAX_REQUEST_BYTES = 10 * 1024 * 1024
MAX_WAIT_SECONDS = 29.0
# waitress refuses on its own, in plain text and before the application, what is over this.
_WAITRESS_MAX_BYTES = 2 * MAX_REQUEST_BYTES
_WAITRESS_THREADS = 16
# Set by the server itself, per connection.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "date", "server"}
)


class Invocable(Protocol):
    """A function."""

    def invoke(self, event: object, *, wait_seconds: float) -> Any:
        """Run it and return its response; wait for a free slot. Raises InvocationError."""


class HttpGateway:
    """The WSGI application: request to event, function, response."""

    def __init__(
        self,
        function: Invocable,
        *,
        metrics: Callable[[], str],
        log: Callable[[str], None],
        wait_seconds: float = MAX_WAIT_SECONDS,
    ) -> None:
        """Serve `function`. `metrics` gives the text of `/metrics`; `log` takes lines without any content of requests.

        Lambda answers 429 at once when no concurrency is left; on one machine it is kinder to wait `wait_seconds`.
        """
        self._function = function
        self._metrics = metrics
        self._log = log
        self._wait_seconds = wait_seconds

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request = _request(environ)
        response = self.answer(request)
        headers = [(name, value) for name, value in response.headers if name.lower() not in _HOP_BY_HOP]
        start_response(_status_line(response.status), [*headers, ("content-length", str(len(response.body)))])
        return [] if request.method == "HEAD" else [response.body]

    def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer one request as API Gateway does, `/metrics` apart."""
        if request.method == "GET" and request.target.partition("?")[0] == "/metrics":
            return HttpResponse(200, [("content-type", "text/plain; version=0.0.4")], self._metrics().encode())
        if len(request.body) > MAX_REQUEST_BYTES:
            return message_response(413, "Request Entity Too Large")
        try:
            return from_result(self._function.invoke(to_event(request), wait_seconds=self._wait_seconds))
        except (InvocationError, MalformedResponseError) as error:
            self._log(f"{request.method} failed: {error}")
            return _gateway_error(error)


class HttpServer:
    """Serves a WSGI application on the loopback interface from threads of its own."""

    def __init__(self, application: HttpGateway, *, port: int | None = None) -> None:
        """Bind `port`, or a free one if it is None, 0 or taken (see `port`); `start` begins to answer."""
        # Its warning that a request waits for a thread is no trouble here.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        listening = _bound_socket(port or 0)
        self.port: int = listening.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        # Our own map, so that this loop and its end concern nobody else's sockets.
        self._sockets: dict[int, Any] = {}
        server = create_server(
            application,
            map=self._sockets,
            sockets=[listening],
            threads=_WAITRESS_THREADS,
            max_request_body_size=_WAITRESS_MAX_BYTES,
            ident="embakery-local",
            clear_untrusted_proxy_headers=False,
        )
        # One socket makes one server; only several make a MultiSocketServer.
        self._server = cast("BaseWSGIServer", server)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, *, timeout_seconds: float = 5.0) -> None:
        """Stop accepting, let requests in progress finish for a while, close every connection."""
        self._stopping.set()
        if self._thread.is_alive():
            self._server.pull_trigger()
            self._thread.join(timeout_seconds)
        self._server.task_dispatcher.shutdown(timeout=math.ceil(timeout_seconds))
        wasyncore.close_all(self._sockets)

    def _loop(self) -> None:
        while not self._stopping.is_set() and self._sockets:
            wasyncore.loop(timeout=1.0, map=self._sockets, count=1)


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((LOOPBACK, port))
    except OSError:
        bound.close()
        if port == 0:
            raise
        return _bound_socket(0)
    return bound


def _request(environ: WSGIEnvironment) -> HttpRequest:
    headers = [
        (name.removeprefix("HTTP_").replace("_", "-"), value)
        for name, value in environ.items()
        if isinstance(value, str) and (name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")) and value
    ]
    body: IO[bytes] = environ["wsgi.input"]
    query = environ["QUERY_STRING"]
    target = environ["REQUEST_URI"]
    if not target.startswith("/"):
        # A client that takes us for a proxy sends the whole URL.
        target = environ["PATH_INFO"] + (f"?{query}" if query else "")
    return HttpRequest(
        method=environ["REQUEST_METHOD"],
        target=target,
        headers=headers,
        body=body.read(),
        protocol=environ["SERVER_PROTOCOL"],
        source_ip=environ.get("REMOTE_ADDR", LOOPBACK),
    )


def _gateway_error(error: InvocationError | MalformedResponseError) -> HttpResponse:
    if isinstance(error, PayloadTooLargeError):
        return message_response(413, "Request Entity Too Large")
    if isinstance(error, ThrottledError | FunctionTimeoutError):
        return message_response(503, "Service Unavailable")
    return message_response(500, "Internal Server Error")


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
