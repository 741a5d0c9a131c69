"""Results to write, a store in memory, and for each store a reader: what a consumer finds there."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from embakery.results import EmbeddingResult, RankedDocument, RerankResult, Result, ResultStore, WriteOutcome
from embakery.vectors import Vector
from local.resources import AwsClients
from storage.dynamodb import DynamoDBStore
from storage.identities import Identity, identity
from storage.s3 import S3Store, current_rows, read_rows
from storage.sqs import SqsStore

# All that decimal numbers, JSON and compression could spoil: a third, the smallest, the largest, minus zero.
VECTOR = np.array([1 / 3, -0.1, 1e-45, 3.4028235e38, -0.0, 1.0], dtype=np.float32)


def embedding(
    id_: str = "doc-1",
    *,
    version: int = 1,
    tenant: str = "acme",
    space_id: str = "space-1",
    vector: Vector = VECTOR,
    **more: Any,
) -> EmbeddingResult:
    """A document's vector."""
    metadata = more.pop("metadata", {"page": 4, "price": 0.1, "title": "Ü \U0001f600"})
    return EmbeddingResult(
        id=id_,
        version=version,
        tenant=tenant,
        space_id=space_id,
        model="tiny",
        vector=vector,
        tokens=7,
        truncated=True,
        job_id="job-1",
        metadata=metadata,
    )


def ranking(id_: str = "q-1", *, version: int = 1, tenant: str = "acme") -> RerankResult:
    """A query's ranking."""
    lines = (RankedDocument("d#1", 1, 0.75), RankedDocument("d 0", 0, 1 / 3))
    return RerankResult(id_, version, tenant, "space-1", "tiny", lines, None)


class StoreUnderTest(Protocol):
    """A store, and the eyes of its consumer."""

    @property
    def store(self) -> ResultStore:
        """The store."""

    # What the store says of a result that it has already, and of one that is older than what it has.
    repeated: WriteOutcome
    late: WriteOutcome
    # 64 KiB, the most that a message may have.
    takes_large_metadata: bool

    def current(self) -> dict[Identity, dict[str, Any]]:
        """What a consumer finds: the row that counts, for each identity."""

    def effects(self) -> int:
        """How many writes a consumer sees."""

    def close(self) -> None:
        """Let go of what it holds."""


@dataclass
class MemoryStore:
    """A result store in memory, which keeps the newest."""

    rows: dict[Identity, dict[str, Any]] = field(default_factory=dict)
    written: int = 0

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        return [self._write(result) for result in results]

    def _write(self, result: Result) -> WriteOutcome:
        there = self.rows.get(identity(result))
        if there is not None and there["version"] >= result.version:
            return WriteOutcome.SUPERSEDED
        self.rows[identity(result)] = result.to_json()
        self.written += 1
        return WriteOutcome.WRITTEN


@dataclass
class MemoryUnderTest:
    """The fake, held to the same contract as the real ones."""

    store: MemoryStore = field(default_factory=MemoryStore)
    repeated: WriteOutcome = WriteOutcome.SUPERSEDED
    late: WriteOutcome = WriteOutcome.SUPERSEDED
    takes_large_metadata: bool = True

    def current(self) -> dict[Identity, dict[str, Any]]:
        return self.store.rows

    def effects(self) -> int:
        return self.store.written

    def close(self) -> None:
        pass


@dataclass
class S3UnderTest:
    """Objects under a prefix of one bucket."""

    clients: AwsClients
    bucket: str
    prefix: str
    repeated: WriteOutcome = WriteOutcome.SUPERSEDED
    # An object of its own: `current_rows` leaves it out.
    late: WriteOutcome = WriteOutcome.WRITTEN
    takes_large_metadata: bool = True

    @property
    def store(self) -> S3Store:
        return S3Store(self.clients.s3, bucket=self.bucket, prefix=self.prefix)

    def current(self) -> dict[Identity, dict[str, Any]]:
        return by_identity(current_rows(read_rows(self.clients.s3, bucket=self.bucket, prefix=self.prefix)))

    def effects(self) -> int:
        return sum(1 for _ in read_rows(self.clients.s3, bucket=self.bucket, prefix=self.prefix))

    def close(self) -> None:
        pass


@dataclass
class DynamoDBUnderTest:
    """Items of one table."""

    clients: AwsClients
    table: str
    repeated: WriteOutcome = WriteOutcome.SUPERSEDED
    late: WriteOutcome = WriteOutcome.SUPERSEDED
    takes_large_metadata: bool = True

    @property
    def store(self) -> DynamoDBStore:
        return DynamoDBStore(self.clients.dynamodb, table=self.table)

    def current(self) -> dict[Identity, dict[str, Any]]:
        return by_identity(self._rows())

    def effects(self) -> int:
        return len(self._rows())

    def close(self) -> None:
        pass

    def _rows(self) -> list[dict[str, Any]]:
        pages = self.clients.dynamodb.get_paginator("scan").paginate(TableName=self.table)
        return [_row_of_item(item) for page in pages for item in page["Items"]]


def _row_of_item(item: Any) -> dict[str, Any]:
    """Read an item as a consumer would: back to the row of `Result.to_json`."""
    values = {name: next(iter(value.values())) for name, value in item.items()}
    row = {name: values[name] for name in ("kind", "id", "tenant", "space_id", "model")}
    row |= {"version": int(values["version"]), "job_id": values.get("job_id")}
    if row["kind"] == "rerank":
        return row | {"ranking": json.loads(values["ranking"])}
    return row | {
        "dim": int(values["dim"]),
        "dtype": values["dtype"],
        "vector": base64.b64encode(values["vector"]).decode(),
        "tokens": int(values["tokens"]),
        "truncated": values["truncated"],
        "metadata": json.loads(values["metadata"]),
    }


@dataclass
class SqsUnderTest:
    """A queue and a consumer which takes every message off it and, on a standard queue, drops those it has had."""

    clients: AwsClients
    queue_url: str
    # The queue takes everything; duplicates are dropped behind it.
    repeated: WriteOutcome = WriteOutcome.WRITTEN
    late: WriteOutcome = WriteOutcome.WRITTEN
    takes_large_metadata: bool = True
    received: list[dict[str, Any]] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    @property
    def store(self) -> SqsStore:
        return SqsStore(self.clients.sqs, queue_url=self.queue_url)

    def current(self) -> dict[Identity, dict[str, Any]]:
        self._receive()
        return by_identity(current_rows(self.received))

    def effects(self) -> int:
        self._receive()
        return len(self.received)

    def close(self) -> None:
        pass

    def _receive(self) -> None:
        sqs = self.clients.sqs
        while messages := sqs.receive_message(
            QueueUrl=self.queue_url, MaxNumberOfMessages=10, MessageAttributeNames=["dedup_id"]
        ).get("Messages"):
            for message in messages:
                dedup_id = message["MessageAttributes"]["dedup_id"]["StringValue"]
                if self.queue_url.endswith(".fifo") or dedup_id not in self._known:
                    self.received.append(json.loads(message["Body"]))
                self._known.add(dedup_id)
                sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])


def by_identity(rows: Sequence[dict[str, Any]]) -> dict[Identity, dict[str, Any]]:
    """Index rows; fails if two are about the same."""
    found = {(row["tenant"], row["kind"], row["id"], row["space_id"]): row for row in rows}
    assert len(found) == len(rows)
    return found
