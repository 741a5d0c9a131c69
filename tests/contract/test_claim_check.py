"""Payloads in S3: read only if they are the ones that the message means, and never from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import tracemalloc
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, IncompleteReadError, ReadTimeoutError

from embakery.errors import (
    ConfigurationError,
    EmbakeryError,
    InvalidRequestError,
    RequestTooLargeError,
    StoreUnavailableError,
)
from embakery.sources import Source, SourceReader
from local.resources import AwsClients
from storage.claim_check import MAX_LINE_BYTES, ClaimCheck

BUCKET = "contract"
PAYLOAD = b'{"id": "a", "text": "first"}\n\n  \n{"id": "b", "text": "second"}\r\n{"id": "c", "text": "third"}'
LINES = [b'{"id": "a", "text": "first"}', b'{"id": "b", "text": "second"}', b'{"id": "c", "text": "third"}']


@pytest.fixture
def prefix() -> str:
    return f"sources-{uuid.uuid4().hex}/"


@pytest.fixture
def checks(aws: AwsClients, prefix: str) -> ClaimCheck:
    return ClaimCheck(aws.s3, bucket=BUCKET, prefix=prefix, owner=None, max_bytes=20_000_000)


def read(checks: SourceReader, source: Source) -> list[bytes]:
    with checks.lines(source) as lines:
        return list(lines)


def test_what_was_put_is_read_line_by_line(aws: AwsClients, checks: ClaimCheck, prefix: str) -> None:
    source = checks.put(PAYLOAD)
    digest = hashlib.sha256(PAYLOAD).hexdigest()
    assert source == Source(f"{prefix}{digest}.jsonl", digest, len(PAYLOAD)) == checks.describe(PAYLOAD)
    assert read(checks, source) == LINES


def test_putting_it_again_leaves_it_alone(aws: AwsClients, checks: ClaimCheck) -> None:
    source = checks.put(PAYLOAD)
    before = aws.s3.head_object(Bucket=BUCKET, Key=source.key)["LastModified"]
    assert checks.put(PAYLOAD) == source
    assert aws.s3.head_object(Bucket=BUCKET, Key=source.key)["LastModified"] == before


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("corrupted", lambda content: content.replace(b"second", b"secund"), "source.sha256"),
        ("swapped", lambda content: b"x" * len(content), "source.sha256"),
        ("truncated", lambda content: content[:-1], "source.size"),
        ("grown", lambda content: content + b"\n", "source.size"),
        ("emptied", lambda content: b"", "source.size"),
    ],
)
@pytest.mark.parametrize("size", [len(PAYLOAD), 6_000_000])
def test_another_payload_under_the_key_gives_no_line(
    aws: AwsClients, checks: ClaimCheck, name: str, change: Callable[[bytes], bytes], field: str, size: int
) -> None:
    content = PAYLOAD * (size // len(PAYLOAD))
    source = checks.put(content)
    aws.s3.put_object(Bucket=BUCKET, Key=source.key, Body=change(content))
    given: list[bytes] = []
    with pytest.raises(InvalidRequestError) as caught, checks.lines(source) as lines:
        given.extend(lines)
    assert (caught.value.field, given) == (field, [])
    assert "second" not in str(caught.value)


def test_a_message_that_lies_about_its_payload(checks: ClaimCheck) -> None:
    source = checks.put(PAYLOAD)
    for wrong, field in [
        (replace(source, size=source.size - 1), "source.size"),
        (replace(source, size=source.size + 1), "source.size"),
        (replace(source, size=-1), "source.size"),
        (replace(source, sha256="0" * 64), "source.sha256"),
        (replace(source, sha256=source.sha256.upper()), "source.sha256"),
        (replace(source, key=source.key[:-1]), "source.key"),
    ]:
        with pytest.raises(InvalidRequestError) as caught:
            read(checks, wrong)
        assert caught.value.field == field


def test_the_size_is_capped_before_anything_is_read(checks: ClaimCheck) -> None:
    source = checks.put(PAYLOAD)
    with pytest.raises(RequestTooLargeError) as caught:
        read(checks, replace(source, size=20_000_001))
    assert caught.value.field == "source.size"
    with pytest.raises(RequestTooLargeError):
        checks.put(b"x" * 20_000_001)


@pytest.mark.parametrize(
    "key",
    [
        "{other}secret.jsonl",
        "{prefix}",
        "{prefix}../{other}secret.jsonl",
        "{prefix}a/../../secret.jsonl",
        "{prefix}./secret.jsonl",
        "{prefix}/secret.jsonl",
        "{prefix}a//secret.jsonl",
        "{prefix}..\\secret.jsonl",
        "{prefix}a\nb",
        "/{prefix}secret.jsonl",
        "s3://contract/{prefix}secret.jsonl",
        "{upper}secret.jsonl",
        "{short}-neighbour/secret.jsonl",
        "",
    ],
)
def test_only_keys_under_the_prefix_are_looked_for(aws: AwsClients, prefix: str, key: str) -> None:
    real = key.format(prefix=prefix, other="other/", upper=prefix.upper(), short=prefix.removesuffix("/"))
    checks = unreachable(AssertionError("looked for"), prefix)
    with pytest.raises(InvalidRequestError) as caught:
        read(checks, Source(real, hashlib.sha256(b"").hexdigest(), 0))
    assert caught.value.field == "source.key"


@pytest.mark.parametrize("prefix", ["", "/", "sources", "/sources/", "a/../", "a//b/", "..\\"])
def test_a_prefix_that_fences_nothing_in_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="EMBAKERY_SOURCE_PREFIX"):
        unreachable(AssertionError("looked for"), prefix)


def test_a_line_without_end_is_refused_when_its_turn_comes(checks: ClaimCheck) -> None:
    good = b"a" * MAX_LINE_BYTES
    assert read(checks, checks.put(good + b"\r\n")) == [good]
    source = checks.put(b"first\n" + good + b"a\nlast\n")
    with checks.lines(source) as lines:
        each = iter(lines)
        assert next(each) == b"first"
        with pytest.raises(InvalidRequestError, match="line 2 is longer than"):
            next(each)


def test_lines_may_be_gone_through_again_without_another_fetch(aws: AwsClients, checks: ClaimCheck) -> None:
    source = checks.put(PAYLOAD)
    with checks.lines(source) as lines:
        assert next(iter(lines)) == LINES[0]
        aws.s3.delete_object(Bucket=BUCKET, Key=source.key)
        assert list(lines) == list(lines) == LINES


def test_a_large_payload_is_never_in_memory_as_a_whole(checks: ClaimCheck) -> None:
    source = checks.put(b"".join(b'{"id": "%d", "text": "%s"}\n' % (n, b"x" * 1000) for n in range(19_000)))
    assert source.size > 19_000_000
    tracemalloc.start()
    try:
        with checks.lines(source) as lines:
            assert sum(1 for _ in lines) == 19_000
        assert tracemalloc.get_traced_memory()[1] < 9_000_000
    finally:
        tracemalloc.stop()


def test_the_owner_of_the_bucket_is_named_in_every_call(aws: AwsClients, prefix: str) -> None:
    """The emulator does not look at it."""
    asked: list[Any] = []
    client: Any = Spy(aws.s3, asked)
    checks = ClaimCheck(client, bucket=BUCKET, prefix=prefix, owner="123456789012", max_bytes=1000)
    read(checks, checks.put(PAYLOAD))
    assert [request.get("ExpectedBucketOwner") for request in asked] == ["123456789012"] * 2
    assert asked[0]["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(PAYLOAD).digest()).decode()


def test_no_such_bucket_is_the_operator_s(aws: AwsClients, prefix: str) -> None:
    checks = ClaimCheck(aws.s3, bucket="no-such-bucket", prefix=prefix, owner=None, max_bytes=1000)
    with pytest.raises(ConfigurationError, match="EMBAKERY_SOURCE_BUCKET: s3 refused: NoSuchBucket"):
        checks.put(PAYLOAD)
    with pytest.raises(ConfigurationError, match="EMBAKERY_SOURCE_BUCKET"):
        read(checks, checks.describe(PAYLOAD))


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDenied", 403, ConfigurationError),
        ("PermanentRedirect", 301, ConfigurationError),
        ("InvalidObjectState", 403, InvalidRequestError),
        ("NoSuchKey", 404, InvalidRequestError),
        ("SlowDown", 503, StoreUnavailableError),
        ("InternalError", 500, StoreUnavailableError),
        ("TooManyRequests", 429, StoreUnavailableError),
        ("RequestTimeout", 400, StoreUnavailableError),
        ("ExpiredToken", 400, StoreUnavailableError),
    ],
)
def test_each_refusal_says_who_must_act(prefix: str, code: str, status: int, kind: type[EmbakeryError]) -> None:
    answer: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    checks = unreachable(ClientError(answer, "GetObject"), prefix)
    with pytest.raises(kind):
        read(checks, checks.describe(PAYLOAD))


@pytest.mark.parametrize("error", [EndpointConnectionError(endpoint_url="x"), ReadTimeoutError(endpoint_url="x")])
def test_a_lost_connection_may_pass(prefix: str, error: Exception) -> None:
    checks = unreachable(error, prefix)
    with pytest.raises(StoreUnavailableError):
        checks.put(PAYLOAD)
    with pytest.raises(StoreUnavailableError):
        read(checks, checks.describe(PAYLOAD))


@pytest.mark.parametrize("error", [IncompleteReadError(actual_bytes=1, expected_bytes=9), ConnectionResetError(), None])
def test_a_connection_lost_while_reading_may_pass(prefix: str, error: Exception | None) -> None:
    client: Any = Breaking(error)
    checks = ClaimCheck(client, bucket=BUCKET, prefix=prefix, owner=None, max_bytes=1000)
    with pytest.raises(StoreUnavailableError):
        read(checks, checks.describe(PAYLOAD))


def unreachable(error: Exception, prefix: str) -> ClaimCheck:
    client: Any = Unreachable(error)
    return ClaimCheck(client, bucket=BUCKET, prefix=prefix, owner=None, max_bytes=1000)


class Unreachable:
    """A client whose every call fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def get_object(self, **_: Any) -> Any:
        raise self._error

    put_object = get_object


class Spy:
    """A client that remembers what it was asked."""

    def __init__(self, client: Any, asked: list[Any]) -> None:
        self._client = client
        self._asked = asked

    def get_object(self, **request: Any) -> Any:
        self._asked.append(request)
        return self._client.get_object(**request)

    def put_object(self, **request: Any) -> Any:
        self._asked.append(request)
        return self._client.put_object(**request)


class Breaking:
    """A client, and a body that ends too soon: with an error, or without one."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def get_object(self, **_: Any) -> Any:
        return {"ContentLength": len(PAYLOAD), "Body": self}

    def __enter__(self) -> Breaking:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, _: int) -> bytes:
        if self._error is not None:
            raise self._error
        return b""
