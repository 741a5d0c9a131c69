"""From the log in S3 to Parquet: of each identity the current row, once, in files for whole tables to read.

A compaction is a snapshot of one listing. Its folder is named by the listing's digest, its parts by their rows'; the
manifest, put last, says that it is whole:

    <out_prefix><snapshot>/<space_id>/<kind>/<sha256 of its rows>.parquet
    <out_prefix><snapshot>/manifest.json    {"parts": [{"key", "rows"}], "rows"}

Everything is put with If-None-Match, so that two who compact at once, or one who begins again, put the same. A log
that has not grown has its manifest: nothing is read. The log is never deleted: what may go is its owner's to say.

Memory holds the listing's keys, one entry of about 250 bytes for each identity (the current-row rule must remember it
to the end; no vectors), and one part of each space and kind that is being filled. The log is read twice, by lines.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from embakery.errors import StoreUnavailableError
from storage.clients import error_code
from storage.parquet_rows import to_parquet
from storage.s3 import ALREADY_THERE, SUFFIX, precedence, read_object

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# At 1536 dimensions about 50 MB of vectors, and twice that while it is filled.
PART_ROWS = 8192
_Precedence = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file."""

    key: str
    rows: int


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction made, or found made. `manifest` is its key; `is_new` is false if it was there already."""

    manifest: str
    parts: tuple[Part, ...]
    is_new: bool

    @property
    def rows(self) -> int:
        """How many rows all parts hold."""
        return sum(part.rows for part in self.parts)


def compact(
    client: S3Client, bucket: str, prefix: str, out_prefix: str, *, part_rows: int = PART_ROWS
) -> Compaction | None:
    """Write the current rows of the log under `prefix` as Parquet below `out_prefix`; None for an empty log.

    Does nothing where the same listing was compacted before. Raises StoreUnavailableError, and ConfigurationError where
    pyarrow is missing.
    """
    try:
        keys = _listed(client, bucket, prefix)
        if not keys:
            return None
        folder = f"{out_prefix}{hashlib.sha256(json.dumps(keys).encode()).hexdigest()}/"
        manifest = f"{folder}manifest.json"
        known = _read_manifest(client, bucket, manifest)
        if known is not None:
            return Compaction(manifest, known, is_new=False)
        current = _current(_rows(client, bucket, keys))
        parts: list[Part] = []
        for rows in _grouped(_rows(client, bucket, keys), current, part_rows):
            parts.append(_put_part(client, bucket, folder, rows))
        body = {"rows": sum(part.rows for part in parts), "parts": [{"key": p.key, "rows": p.rows} for p in parts]}
        _put(client, bucket, manifest, json.dumps(body).encode(), "application/json")
    except ClientError as error:
        raise StoreUnavailableError(f"s3 refused a compaction: {error_code(error)}") from error
    except BotoCoreError as error:
        raise StoreUnavailableError(f"s3 cannot be reached: {type(error).__name__}") from error
    return Compaction(manifest, tuple(parts), is_new=True)


def _listed(client: S3Client, bucket: str, prefix: str) -> list[str]:
    """Return the log's keys in S3's order. They name their content, so a listing of equal keys is an equal log."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    entries = (entry for page in pages for entry in page.get("Contents", []))
    return [entry["Key"] for entry in entries if entry["Key"].endswith(SUFFIX)]


def _rows(client: S3Client, bucket: str, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
    for key in keys:
        yield from read_object(client, bucket=bucket, key=key)


def _current(rows: Iterable[dict[str, Any]]) -> dict[bytes, _Precedence]:
    """Return, for each identity, by its digest, which row counts: the rule of `storage.s3.current_rows`."""
    current: dict[bytes, _Precedence] = {}
    for row in rows:
        name, rank = _identity(row), precedence(row)
        if name not in current or rank > current[name]:
            current[name] = rank
    return current


def _grouped(
    rows: Iterable[dict[str, Any]], current: dict[bytes, _Precedence], part_rows: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows that count, each once, in lists of one space, kind and dimension. Empties `current`."""
    filling: dict[tuple[str, str, int | None], list[dict[str, Any]]] = {}
    for row in rows:
        name = _identity(row)
        if current.get(name) != precedence(row):
            continue
        # The same row may stand in another object too.
        del current[name]
        group = (row["space_id"], row["kind"], row.get("dim"))
        filling.setdefault(group, []).append(row)
        if len(filling[group]) == part_rows:
            yield filling.pop(group)
    yield from filling.values()


def _put_part(client: S3Client, bucket: str, folder: str, rows: Sequence[dict[str, Any]]) -> Part:
    # Of the rows, not of the file: another version of pyarrow writes other bytes.
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    key = f"{folder}{rows[0]['space_id']}/{rows[0]['kind']}/{digest.hexdigest()}.parquet"
    body = io.BytesIO()
    to_parquet(rows, body)
    _put(client, bucket, key, body.getvalue(), "application/vnd.apache.parquet")
    return Part(key, len(rows))


def _put(client: S3Client, bucket: str, key: str, body: bytes, content_type: str) -> None:
    try:
        client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type, IfNoneMatch="*")
    except ClientError as error:
        if error_code(error) not in ALREADY_THERE:
            raise


def _read_manifest(client: S3Client, bucket: str, key: str) -> tuple[Part, ...] | None:
    try:
        content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error_code(error) in {"NoSuchKey", "404"}:
            return None
        raise
    return tuple(Part(part["key"], part["rows"]) for part in json.loads(content)["parts"])


def _identity(row: dict[str, Any]) -> bytes:
    fields = (row["tenant"], row["kind"], row["id"], row["space_id"])
    return hashlib.sha256(json.dumps(fields).encode()).digest()[:16]
