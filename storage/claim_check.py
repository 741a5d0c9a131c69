"""Claim checks in S3: payloads too large for a message, each under the digest of its own content.

Whoever can send a message can name a key, so a key is only ever looked for under one prefix of one bucket, whose owner
can be pinned too, and no line is given out before the whole payload is known to be the one that the message means.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from embakery.errors import (
    ConfigurationError,
    EmbakeryError,
    InvalidRequestError,
    RequestTooLargeError,
    StoreUnavailableError,
)
from embakery.sources import Source
from storage.advice import explain
from storage.clients import error_code
from storage.s3 import ALREADY_THERE

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# A line is parsed as a whole: without a bound one line could be the whole payload.
MAX_LINE_BYTES = 8 * 1024 * 1024
_MAX_KEY_BYTES = 1024
_SPOOL_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
# 4xx answers that pass; with 429 and 5xx they are all that does.
_PASSING = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout", "RequestTimeTooSkewed"}
    | {"BadDigest", "ExpiredToken", "ConditionalRequestConflict", "OperationAborted", "KMS.ThrottlingException"}
)
_MISSING = frozenset({"NoSuchKey", "NoSuchVersion", "404"})


class ClaimCheck:
    """Payloads under `s3://bucket/prefix`. Implements `embakery.sources.SourceReader`."""

    def __init__(self, client: S3Client, *, bucket: str, prefix: str, owner: str | None, max_bytes: int) -> None:
        """Name the place. owner: the account that must own the bucket, if that is to be checked.

        Raises ConfigurationError for a prefix that would not fence anything in.
        """
        if not re.fullmatch(r"([^/\\]+/)+", prefix) or not _is_plain(prefix.removesuffix("/")):
            raise ConfigurationError(f"EMBAKERY_SOURCE_PREFIX={prefix!r} must be a folder, such as sources/")
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._owner: dict[str, Any] = {} if owner is None else {"ExpectedBucketOwner": owner}
        self._max_bytes = max_bytes

    def describe(self, content: bytes) -> Source:
        """Name the payload that `put` makes of `content`. Raises RequestTooLargeError."""
        if len(content) > self._max_bytes:
            raise RequestTooLargeError("source.size", f"{len(content)} bytes, the limit is {self._max_bytes}")
        digest = hashlib.sha256(content).hexdigest()
        return Source(key=f"{self._prefix}{digest}.jsonl", sha256=digest, size=len(content))

    def put(self, content: bytes) -> Source:
        """Keep a payload of JSON lines; one that is there already is left as it is.

        Raises RequestTooLargeError, ConfigurationError and StoreUnavailableError.
        """
        source = self.describe(content)
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=source.key,
                Body=content,
                ContentType="application/jsonl",
                ChecksumSHA256=base64.b64encode(bytes.fromhex(source.sha256)).decode(),
                IfNoneMatch="*",
                **self._owner,
            )
        except ClientError as error:
            if error_code(error) not in ALREADY_THERE:
                raise _error(error) from error
        except BotoCoreError as error:
            raise StoreUnavailableError(f"s3 cannot be reached: {explain(error)}") from error
        return source

    @contextmanager
    def lines(self, source: Source) -> Iterator[Iterable[bytes]]:
        """Open a payload; see `embakery.sources.SourceReader.lines`. Also raises ConfigurationError.

        It waits in memory up to 4 MiB, beyond that in a file of the system's temporary folder. A line over 8 MiB raises
        InvalidRequestError when its turn comes.
        """
        self._check(source)
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            self._fetch(source, spool)
            yield _Lines(spool)

    def _check(self, source: Source) -> None:
        rest = source.key.removeprefix(self._prefix)
        if not source.key.startswith(self._prefix) or not _is_plain(rest):
            raise InvalidRequestError("source.key", "is not under this deployment's prefix for sources")
        if len(source.key.encode(errors="surrogatepass")) > _MAX_KEY_BYTES:
            raise InvalidRequestError("source.key", f"is longer than {_MAX_KEY_BYTES} bytes")
        if not re.fullmatch(r"[0-9a-f]{64}", source.sha256):
            raise InvalidRequestError("source.sha256", "must be 64 hexadecimal digits in lower case")
        if source.size < 0:
            raise InvalidRequestError("source.size", "must not be negative")
        if source.size > self._max_bytes:
            raise RequestTooLargeError("source.size", f"{source.size} bytes, the limit is {self._max_bytes}")

    def _fetch(self, source: Source, spool: IO[bytes]) -> None:
        """Copy the payload to `spool`; returns only if it is the one that is meant."""
        digest, total = hashlib.sha256(), 0
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=source.key, **self._owner)
            with answer["Body"] as body:
                if answer["ContentLength"] != source.size:
                    raise _other_size(source)
                while chunk := body.read(_CHUNK_BYTES):
                    total += len(chunk)
                    if total > source.size:
                        raise _other_size(source)
                    digest.update(chunk)
                    spool.write(chunk)
        except ClientError as error:
            raise _error(error) from error
        except BotoCoreError as error:
            raise StoreUnavailableError(f"a source could not be read: {explain(error)}") from error
        except OSError as error:
            raise StoreUnavailableError(f"a source could not be read: {type(error).__name__}") from error
        if total != source.size:
            raise StoreUnavailableError(f"a source ended after {total} of {source.size} bytes")
        if digest.hexdigest() != source.sha256:
            raise InvalidRequestError("source.sha256", "is not the digest of the object")


def _is_plain(path: str) -> bool:
    """Say whether a path means the same to everyone who reads it: no empty or dotted parts, no control characters."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and not any(part in {"", ".", ".."} for part in parts)


def _other_size(source: Source) -> InvalidRequestError:
    return InvalidRequestError("source.size", f"is {source.size} bytes, but the object has another size")


class _Lines:
    """The lines of a payload, from the first each time that they are gone through."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool

    def __iter__(self) -> Iterator[bytes]:
        self._spool.seek(0)
        number = 0
        while line := self._spool.readline(MAX_LINE_BYTES + 2):
            number += 1
            content = line.rstrip(b"\r\n")
            if len(content) > MAX_LINE_BYTES:
                raise InvalidRequestError("source", f"line {number} is longer than {MAX_LINE_BYTES} bytes")
            if content.strip():
                yield content


def _error(error: ClientError) -> EmbakeryError:
    """Say who must act: on a missing object whoever sent the message, on a missing right whoever set up the bucket."""
    code = error_code(error)
    status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    if code in _PASSING or status == 429 or status >= 500:
        return StoreUnavailableError(f"s3 refused: {code}")
    if code in _MISSING:
        return InvalidRequestError("source.key", "there is no such object")
    if code == "InvalidObjectState":
        return InvalidRequestError("source.key", "is archived and cannot be read")
    # S3 answers for a missing object with 403 too, to a role without s3:ListBucket.
    return ConfigurationError(f"EMBAKERY_SOURCE_BUCKET: s3 refused: {explain(error)}")
