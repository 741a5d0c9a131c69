"""Translates HTTP requests to API Gateway HTTP API events, payload format 2.0, and responses back.

See https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from local.environment import ACCOUNT_ID, REGION

_API_ID = "local"
_DOMAIN = f"{_API_ID}.execute-api.{REGION}.amazonaws.com"
_TEXT_TYPES = frozenset({"application/json", "application/xml", "application/javascript"})


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request. `target` is the path and query as sent; `headers` in order, names as sent, repeated ones apart."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    protocol: str = "HTTP/1.1"
    source_ip: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


class MalformedResponseError(Exception):
    """The function's response is not of format 2.0: API Gateway answers 500."""


def to_event(request: HttpRequest) -> dict[str, Any]:
    """Return the event for a request, as the `$default` route passes it."""
    path, _, query = request.target.partition("?")
    headers = _joined((name.lower(), value) for name, value in request.headers if name.lower() != "cookie")
    cookies = [cookie for name, value in request.headers if name.lower() == "cookie" for cookie in value.split("; ")]
    body, is_base64 = _event_body(request.body, headers.get("content-type", ""))
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": unquote(path),
        "rawQueryString": query,
        "headers": headers,
        "requestContext": _request_context(request, unquote(path), headers.get("user-agent", "")),
        "isBase64Encoded": is_base64,
    }
    if cookies:
        event["cookies"] = cookies
    if query:
        event["queryStringParameters"] = _joined(parse_qsl(query, keep_blank_values=True))
    if body is not None:
        event["body"] = body
    return event


def from_result(result: object) -> HttpResponse:
    """Return the HTTP response for what the function returned. Raises MalformedResponseError.

    Without a `statusCode` the result itself is the body of a 200 of type application/json.
    """
    if not isinstance(result, dict) or "statusCode" not in result:
        text = result if isinstance(result, str) else json.dumps(result)
        return HttpResponse(200, [("content-type", "application/json")], text.encode())
    headers = _response_headers(result)
    if not any(name == "content-type" for name, _ in headers):
        headers.append(("content-type", "application/json"))
    return HttpResponse(_status(result["statusCode"]), headers, _response_body(result))


def message_response(status: int, message: str) -> HttpResponse:
    """Return an answer of API Gateway's own, such as 500 `{"message":"Internal Server Error"}`."""
    body = json.dumps({"message": message}, separators=(",", ":")).encode()
    return HttpResponse(status, [("content-type", "application/json")], body)


def _request_context(request: HttpRequest, path: str, user_agent: str) -> dict[str, Any]:
    now = time.time()
    return {
        "accountId": ACCOUNT_ID,
        "apiId": _API_ID,
        "domainName": _DOMAIN,
        "domainPrefix": _API_ID,
        "http": {
            "method": request.method,
            "path": path,
            "protocol": request.protocol,
            "sourceIp": request.source_ip,
            "userAgent": user_agent,
        },
        "requestId": uuid.uuid4().hex,
        "routeKey": "$default",
        "stage": "$default",
        "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
        "timeEpoch": int(now * 1000),
    }


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a dict of the pairs; values of the same name are joined with commas, as format 2.0 does."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _event_body(body: bytes, content_type: str) -> tuple[str | None, bool]:
    """Return the body and whether it is base64: it is for binary content types, and for what is not UTF-8."""
    if not body:
        return None, False
    if _is_text(content_type):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True


def _is_text(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    if not media_type:
        return True
    return media_type.startswith("text/") or media_type in _TEXT_TYPES or media_type.endswith(("+json", "+xml"))


def _status(value: object) -> int:
    # API Gateway takes a status as a string, too.
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdecimal():
        raise MalformedResponseError("statusCode is not a number")
    status = int(value)
    if not 100 <= status <= 599:
        raise MalformedResponseError("statusCode is not between 100 and 599")
    return status


def _response_headers(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    headers, cookies = result.get("headers") or {}, result.get("cookies") or []
    if not isinstance(headers, dict) or not all(_is_header_value(value) for value in headers.values()):
        raise MalformedResponseError("headers is not an object of strings")
    if not isinstance(cookies, list) or not all(_is_header_value(cookie) for cookie in cookies):
        raise MalformedResponseError("cookies is not a list of strings")
    pairs = [(name.lower(), _header_text(value)) for name, value in headers.items()]
    return pairs + [("set-cookie", _header_text(cookie)) for cookie in cookies]


def _is_header_value(value: object) -> bool:
    return isinstance(value, str | int | float) and str(value).isascii() and not {"\r", "\n"} & set(str(value))


def _header_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _response_body(result: Mapping[str, Any]) -> bytes:
    body = result.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise MalformedResponseError("body is not a string")
    if not result.get("isBase64Encoded"):
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise MalformedResponseError("body is not base64") from error
