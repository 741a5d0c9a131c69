"""HTTP as API Gateway's HTTP API gives it (payload format 2.0): events to requests, answers and errors to responses."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embakery.errors import EmbakeryError, InvalidRequestError, NotFoundError, RequestTooLargeError, UnavailableError

Json = dict[str, Any]

_TAKEN = "this function takes those of an HTTP API or a function URL, payload format 2.0"


@dataclass(frozen=True, slots=True)
class Request:
    """Method, path without the stage, and the raw body."""

    method: str
    path: str
    body: bytes

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Request:
        """Read a version 2.0 event. Raises InvalidRequestError for a body that is not the base64 it claims to be."""
        context = event["requestContext"]
        stage = context.get("stage", "$default")
        path = event["rawPath"]
        if stage != "$default":
            path = path.removeprefix(f"/{stage}")
        body = event.get("body") or ""
        if not event.get("isBase64Encoded"):
            return cls(context["http"]["method"], path, body.encode("utf-8", "surrogatepass"))
        try:
            return cls(context["http"]["method"], path, base64.b64decode(body, validate=True))
        except binascii.Error:
            raise InvalidRequestError("body", "is not valid base64") from None

    def json(self) -> Json:
        """Parse the body as a JSON object. Raises InvalidRequestError."""
        try:
            content = json.loads(self.body.decode("utf-8"))
        except (ValueError, RecursionError):
            # Not chained: the decoder's error carries the whole body.
            raise InvalidRequestError("body", "is not valid JSON in UTF-8") from None
        if not isinstance(content, dict):
            raise InvalidRequestError("body", "must be a JSON object")
        return content


def check_event(event: object) -> None:
    """Raise InvalidRequestError unless an event is a request in payload format 2.0."""
    context = event.get("requestContext") if isinstance(event, Mapping) else None
    http = context.get("http") if isinstance(context, Mapping) else None
    if not isinstance(event, Mapping) or not isinstance(http, Mapping):
        raise InvalidRequestError("event", f"is no HTTP request: {_TAKEN}")
    wrong = [
        name
        for name, value in (("rawPath", event.get("rawPath")), ("method", http.get("method")))
        if not isinstance(value, str)
    ]
    if wrong:
        raise InvalidRequestError("event", f"has no {wrong[0]}: {_TAKEN}")


def respond(content: Mapping[str, Any], *, status: int = 200) -> Json:
    """Return a version 2.0 response."""
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps(content, ensure_ascii=False, separators=(",", ":")),
        "isBase64Encoded": False,
    }


def respond_error(error: EmbakeryError) -> Json:
    """Return an error in OpenAI's shape: callers' mistakes by field, our own without detail."""
    if isinstance(error, NotFoundError):
        return _error(404, error, kind="invalid_request_error", param=error.field)
    if isinstance(error, RequestTooLargeError):
        return _error(413, error, kind="invalid_request_error", param=error.field)
    if isinstance(error, InvalidRequestError):
        return _error(400, error, kind="invalid_request_error", param=error.field)
    if isinstance(error, UnavailableError):
        return _error(503, error, kind="server_error", param=None)
    # A caller can do nothing about it, and need not learn the names of our secrets: the log has them.
    return _error(500, EmbakeryError("internal error"), kind="server_error", param=None)


def _error(status: int, error: EmbakeryError, *, kind: str, param: str | None) -> Json:
    content = {"message": str(error), "type": kind, "param": param or None, "code": error.code}
    return respond({"error": content}, status=status)
