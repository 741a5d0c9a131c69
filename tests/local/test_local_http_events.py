"""Requests to API Gateway v2 events, and responses back."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from local_fakes import EVENTS

from local.http_events import HttpRequest, HttpResponse, MalformedResponseError, from_result, to_event

JSON_TYPE = ("Content-Type", "application/json")


def request(
    target: str = "/v1/embeddings",
    *,
    headers: list[tuple[str, str]] | None = None,
    body: bytes = b"",
    method: str = "POST",
) -> HttpRequest:
    return HttpRequest(method=method, target=target, headers=headers or [], body=body)


def test_an_event_has_the_fields_of_the_sample_event() -> None:
    sample = json.loads((EVENTS / "api-embeddings.json").read_text())
    event = to_event(request(headers=[JSON_TYPE, ("User-Agent", "curl/8")], body=b"{}"))
    assert event.keys() == sample.keys()
    assert event["requestContext"].keys() == sample["requestContext"].keys() - {"authorizer"}
    assert event["requestContext"]["http"] == {
        "method": "POST",
        "path": "/v1/embeddings",
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "curl/8",
    }
    assert event["version"] == "2.0"
    assert event["routeKey"] == "$default"


def test_headers_are_lower_cased_and_joined_and_cookies_apart() -> None:
    event = to_event(request(headers=[("X-A", "1"), ("x-a", "2"), ("Cookie", "a=1; b=2")]))
    assert event["headers"] == {"x-a": "1,2"}
    assert event["cookies"] == ["a=1", "b=2"]


def test_path_and_query() -> None:
    event = to_event(request("/a%20b?x=1&x=2&empty=&y=a%26b"))
    assert event["rawPath"] == "/a b"
    assert event["rawQueryString"] == "x=1&x=2&empty=&y=a%26b"
    assert event["queryStringParameters"] == {"x": "1,2", "empty": "", "y": "a&b"}


def test_no_query_and_no_body_leave_their_fields_out() -> None:
    event = to_event(request(method="GET"))
    assert event["rawQueryString"] == ""
    assert not event.keys() & {"queryStringParameters", "body", "cookies"}


@pytest.mark.parametrize(
    ("content_type", "body", "is_base64"),
    [
        ("application/json", '{"a": "ä"}'.encode(), False),
        ("application/json; charset=utf-8", b"{}", False),
        ("application/problem+json", b"{}", False),
        ("text/plain", "ä".encode(), False),
        ("", b"{}", False),
        ("application/json", b"\xff\xfe", True),
        ("application/octet-stream", b"{}", True),
        ("application/x-www-form-urlencoded", b"a=1", True),
    ],
)
def test_binary_bodies_are_base64(content_type: str, body: bytes, is_base64: bool) -> None:
    event = to_event(request(headers=[("content-type", content_type)] if content_type else [], body=body))
    assert event["isBase64Encoded"] is is_base64
    assert (base64.b64decode(event["body"]) if is_base64 else event["body"].encode()) == body


def test_a_response_of_format_2() -> None:
    response = from_result(
        {"statusCode": 422, "headers": {"Content-Type": "text/plain", "X-N": 3}, "cookies": ["a=1", "b=2"], "body": "ä"}
    )
    assert response == HttpResponse(
        422,
        [("content-type", "text/plain"), ("x-n", "3"), ("set-cookie", "a=1"), ("set-cookie", "b=2")],
        "ä".encode(),
    )


def test_a_base64_response_is_decoded() -> None:
    assert from_result({"statusCode": 200, "body": "//4=", "isBase64Encoded": True}).body == b"\xff\xfe"


@pytest.mark.parametrize(
    ("result", "body"), [({"message": "hello"}, b'{"message": "hello"}'), ("hello", b"hello"), ([1], b"[1]")]
)
def test_without_a_status_code_the_result_is_the_body(result: object, body: bytes) -> None:
    assert from_result(result) == HttpResponse(200, [("content-type", "application/json")], body)


@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": "abc"},
        {"statusCode": None},
        {"statusCode": True},
        {"statusCode": 99},
        {"statusCode": 200, "body": {"not": "a string"}},
        {"statusCode": 200, "headers": ["a"]},
        {"statusCode": 200, "headers": {"a": ["b"]}},
        {"statusCode": 200, "headers": {"a": "b\r\nc: d"}},
        {"statusCode": 200, "cookies": "a=1"},
        {"statusCode": 200, "body": "*", "isBase64Encoded": True},
    ],
)
def test_a_malformed_response_is_refused(result: dict[str, Any]) -> None:
    with pytest.raises(MalformedResponseError):
        from_result(result)
