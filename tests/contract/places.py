"""For each of the stores with a package or a server of their own: the store, and what a consumer finds there."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import boto3
import numpy as np
import psycopg
from botocore.config import Config
from contract_fakes import by_identity
from fake_opensearch import FakeOpenSearch
from fake_qdrant import FakeQdrant
from fake_s3_vectors import FakeS3Vectors
from qdrant_client import QdrantClient

from embakery.results import WriteOutcome
from embakery.vectors import to_base64
from storage.identities import Identity
from storage.opensearch import OpenSearchStore
from storage.opensearch_access import unsigned
from storage.postgres import PostgresStore
from storage.qdrant import QdrantStore, open_qdrant
from storage.s3_vectors import S3VectorsStore, current_vectors, to_row

SUPERSEDED, WRITTEN = WriteOutcome.SUPERSEDED, WriteOutcome.WRITTEN
_COLUMNS = "kind, id, version, tenant, space_id, model, dim, tokens, truncated, job_id"
_ALL = f"{_COLUMNS}, vector::real[], metadata::text, ranking::text"


def base64_of(values: Any) -> str:
    """Write numbers as a row has them."""
    return to_base64(np.array(values, dtype=np.float32))


@dataclass
class PostgresUnderTest:
    """One table of a database, with pgvector's column or real[]."""

    url: str
    pgvector: bool
    table: str = field(default_factory=lambda: f"t{uuid.uuid4().hex}")
    repeated: WriteOutcome = SUPERSEDED
    late: WriteOutcome = SUPERSEDED
    takes_large_metadata: bool = True

    def __post_init__(self) -> None:
        self.store = PostgresStore(f"{self.url}?table={self.table}", pgvector=self.pgvector)

    def current(self) -> dict[Identity, dict[str, Any]]:
        return by_identity([self._row(*values) for values in self.query(_ALL)])

    def effects(self) -> int:
        return len(self.query("id"))

    def query(self, what: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            found = connection.execute("SELECT to_regclass(%s)", [self.table]).fetchone()
            if found == (None,):
                return []
            return connection.execute(f"SELECT {what} FROM {self.table}".encode(), binary=True).fetchall()

    def close(self) -> None:
        self.store.close()

    @staticmethod
    def _row(*values: Any) -> dict[str, Any]:
        *plain, vector, metadata, ranking = values
        row = dict(zip(_COLUMNS.split(", "), plain, strict=True))
        if row["kind"] == "rerank":
            return {name: row[name] for name in row if name not in {"dim", "tokens", "truncated"}} | {
                "ranking": json.loads(ranking)
            }
        return row | {"dtype": "float32", "vector": base64_of(vector), "metadata": json.loads(metadata)}


@dataclass
class QdrantLocalUnderTest:
    """Collections of the client's own, in memory."""

    repeated: WriteOutcome = SUPERSEDED
    late: WriteOutcome = SUPERSEDED
    takes_large_metadata: bool = True

    def __post_init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.store = QdrantStore(self.client, collection="documents", local=True)

    def current(self) -> dict[Identity, dict[str, Any]]:
        return by_identity(self._rows())

    def effects(self) -> int:
        return len(self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        names = [collection.name for collection in self.client.get_collections().collections]
        pages = [self.client.scroll(name, limit=1000, with_vectors=True)[0] for name in names]
        return [point_row(record.payload, record.vector) for page in pages for record in page]

    def close(self) -> None:
        self.store.close()


@dataclass
class QdrantHttpUnderTest:
    """A server that records what the client asks."""

    server: FakeQdrant = field(default_factory=FakeQdrant)
    repeated: WriteOutcome = SUPERSEDED
    late: WriteOutcome = SUPERSEDED
    takes_large_metadata: bool = True

    def __post_init__(self) -> None:
        self.store = open_qdrant(f"qdrant+http://{self.server.address}/documents", api_key="key")

    def current(self) -> dict[Identity, dict[str, Any]]:
        return by_identity([point_row(point["payload"], point["vector"]) for point in self.server.points.values()])

    def effects(self) -> int:
        return len(self.server.points)

    def close(self) -> None:
        self.store.close()
        self.server.stop()


def point_row(payload: Any, vector: Any) -> dict[str, Any]:
    """Read a point as a consumer would: back to the row of `Result.to_json`."""
    return dict(payload) | ({"vector": base64_of(vector)} if payload["kind"] == "embedding" else {})


@dataclass
class OpenSearchUnderTest:
    """A server that keeps external versions."""

    server: FakeOpenSearch = field(default_factory=FakeOpenSearch)
    repeated: WriteOutcome = SUPERSEDED
    late: WriteOutcome = SUPERSEDED
    takes_large_metadata: bool = True

    def __post_init__(self) -> None:
        self.store = OpenSearchStore(f"http://{self.server.address}", index="documents", authorize=unsigned)

    def current(self) -> dict[Identity, dict[str, Any]]:
        return by_identity([point_row(row, row.get("vector")) for _, row in self.server.documents.values()])

    def effects(self) -> int:
        return len(self.server.documents)

    def close(self) -> None:
        self.store.close()
        self.server.stop()


@dataclass
class S3VectorsUnderTest:
    """A server that keeps float32 under keys, and boto3's own client."""

    server: FakeS3Vectors = field(default_factory=FakeS3Vectors)
    # The same bytes under the same key; an older version under its own.
    repeated: WriteOutcome = WRITTEN
    late: WriteOutcome = WRITTEN
    takes_large_metadata: bool = False

    def __post_init__(self) -> None:
        self.client = boto3.client(
            "s3vectors",
            endpoint_url=f"http://{self.server.address}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(proxies={}, connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
        )
        self.store = S3VectorsStore(self.client, bucket="vectors", index="documents")

    def current(self) -> dict[Identity, dict[str, Any]]:
        return by_identity([to_row(vector) for vector in current_vectors(self.server.vectors.values())])

    def effects(self) -> int:
        return len(self.server.vectors)

    def close(self) -> None:
        self.client.close()
        self.server.stop()
