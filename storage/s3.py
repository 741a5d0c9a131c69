"""Results in S3: one compressed JSONL object for a batch.

An object's key is made of its content, and it is put with If-None-Match, so a batch that comes again finds itself
there. Regrouped by a redelivery, a row can stand in two objects; the rows are equal, bit for bit. A reader takes, for
each (tenant, kind, id, space), the row with the highest version: nothing is overwritten, so nothing newer is either.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from embakery.errors import StoreUnavailableError
from embakery.results import Result, WriteOutcome
from storage.advice import explain
from storage.clients import error_code
from storage.parts import write_parts

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SUFFIX = ".jsonl.gz"
ALREADY_THERE = frozenset({"PreconditionFailed", "412"})


class S3Store:
    """Writes batches under `s3://bucket/prefix`."""

    def __init__(self, client: S3Client, *, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        """Put one object for each kind and space among the results. Raises StoreUnavailableError if none was put."""
        groups: dict[str, list[tuple[int, Result]]] = {}
        for index, result in enumerate(results):
            groups.setdefault(f"{result.space_id}/{result.kind}", []).append((index, result))
        return write_parts(len(results), groups, self._put)

    def _put(self, folder: str, results: Sequence[Result]) -> list[WriteOutcome]:
        rows = sorted({json.dumps(result.to_json(), sort_keys=True, ensure_ascii=False) for result in results})
        content = "".join(f"{row}\n" for row in rows).encode()
        key = f"{self._prefix}{folder}/{hashlib.sha256(content).hexdigest()}{SUFFIX}"
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                # mtime=0: the same rows are the same bytes.
                Body=gzip.compress(content, compresslevel=1, mtime=0),
                ContentType="application/jsonl",
                ContentEncoding="gzip",
                IfNoneMatch="*",
            )
        except ClientError as error:
            if error_code(error) in ALREADY_THERE:
                return [WriteOutcome.SUPERSEDED] * len(results)
            raise StoreUnavailableError(f"s3 refused a write: {explain(error)}") from error
        except BotoCoreError as error:
            raise StoreUnavailableError(f"s3 cannot be reached: {explain(error)}") from error
        return [WriteOutcome.WRITTEN] * len(results)


def read_rows(client: S3Client, *, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield every row of every object under a prefix, in no order of meaning."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for entry in (entry for page in pages for entry in page.get("Contents", [])):
        if entry["Key"].endswith(SUFFIX):
            yield from read_object(client, bucket=bucket, key=entry["Key"])


def read_object(client: S3Client, *, bucket: str, key: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one object, a line at a time."""
    with gzip.GzipFile(fileobj=client.get_object(Bucket=bucket, Key=key)["Body"]) as lines:
        yield from map(json.loads, lines)


def current_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the row with the highest version for each (tenant, kind, id, space).

    Two rows of one version differ only if a caller gave one version to two texts; then the choice is fixed, no more.
    """
    current: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for row in rows:
        identity = (row["tenant"], row["kind"], row["id"], row["space_id"])
        if identity not in current or precedence(row) > precedence(current[identity]):
            current[identity] = row
    return list(current.values())


def precedence(row: dict[str, Any]) -> tuple[int, bytes]:
    """Return what orders the rows of one identity: the version, then a digest of the row."""
    return row["version"], hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest()
