"""The HTTP server, over real sockets, before a function in this process."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from local_fakes import LogLines

from local.errors import (
    FunctionCrashedError,
    FunctionError,
    FunctionTimeoutError,
    InvocationError,
    PayloadTooLargeError,
    ThrottledError,
)
from local.http import MAX_REQUEST_BYTES, HttpGateway, HttpServer


class Function:
    result: Any = None
    error: InvocationError | None = None
    event: Any = None

    def invoke(self, event: object, *, wait_seconds: float) -> Any:
        self.event = event
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def function() -> Function:
    return Function()


@pytest.fixture
def log() -> LogLines:
    return LogLines()


@pytest.fixture
def server(function: Function, log: LogLines) -> Iterator[HttpServer]:
    server = HttpServer(HttpGateway(function, metrics=lambda: "documents_total 3\n", log=log.add))
    server.start()
    yield server
    server.stop()


def ask(
    server: HttpServer, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_a_request_and_its_response(server: HttpServer, function: Function) -> None:
    function.result = {"statusCode": 201, "headers": {"X-Answer": "1", "Content-Length": "99"}, "body": "{}"}
    status, headers, body = ask(
        server, "POST", "/v1/e%20x?a=1", '{"ä": 1}'.encode(), {"Content-Type": "application/json"}
    )
    assert (status, headers["x-answer"], headers["content-length"], body) == (201, "1", "2", b"{}")
    assert function.event["rawPath"] == "/v1/e x"
    assert function.event["rawQueryString"] == "a=1"
    assert function.event["body"] == '{"ä": 1}'
    assert function.event["headers"]["content-type"] == "application/json"
    assert function.event["headers"]["host"] == f"127.0.0.1:{server.port}"


def test_binary_both_ways(server: HttpServer, function: Function) -> None:
    function.result = {"statusCode": 200, "body": "//4=", "isBase64Encoded": True}
    assert ask(server, "POST", "/", b"\xff", {"Content-Type": "application/octet-stream"})[2] == b"\xff\xfe"
    assert function.event["isBase64Encoded"] is True
    assert function.event["body"] == "/w=="


def test_head_has_the_length_and_no_body(server: HttpServer, function: Function) -> None:
    function.result = "hello"
    status, headers, body = ask(server, "HEAD", "/")
    assert (status, headers["content-length"], body) == (200, "5", b"")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (FunctionError("f", error_type="E", error_message="secret"), 500, "Internal Server Error"),
        (FunctionCrashedError("f", "died"), 500, "Internal Server Error"),
        (FunctionTimeoutError("f", "late"), 503, "Service Unavailable"),
        (ThrottledError("f", "busy"), 503, "Service Unavailable"),
        (PayloadTooLargeError("f", "big"), 413, "Request Entity Too Large"),
    ],
)
def test_failures_are_answered_as_api_gateway_does(
    server: HttpServer, function: Function, log: LogLines, error: InvocationError, status: int, message: str
) -> None:
    function.error = error
    assert ask(server, "POST", "/", b"{}")[::2] == (
        status,
        json.dumps({"message": message}, separators=(",", ":")).encode(),
    )
    assert len(log.lines) == 1
    assert "secret" not in log.lines[0]


def test_a_malformed_response_is_a_500(server: HttpServer, function: Function) -> None:
    function.result = {"statusCode": 200, "body": {}}
    assert ask(server, "GET", "/")[0] == 500


def test_over_ten_megabytes_is_a_413(server: HttpServer, function: Function) -> None:
    assert ask(server, "POST", "/", b"x" * (MAX_REQUEST_BYTES + 1))[0] == 413
    assert function.event is None


def test_metrics_come_from_the_server_itself(server: HttpServer, function: Function) -> None:
    assert ask(server, "GET", "/metrics")[::2] == (200, b"documents_total 3\n")
    assert function.event is None


def test_a_taken_port_is_replaced(server: HttpServer, function: Function) -> None:
    second = HttpServer(HttpGateway(function, metrics=str, log=print), port=server.port)
    assert second.port != server.port
    second.stop()


def test_a_free_port_is_taken_and_given_back(function: Function) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        server = HttpServer(HttpGateway(function, metrics=str, log=print), port=port)
        server.start()
        assert ask(server, "GET", "/")[0] == 200
        server.stop()
        assert server.port == port
