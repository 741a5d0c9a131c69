"""Results in Qdrant (1.16 or later): one point for each (tenant, kind, id, space), in a collection for each space.

The condition is Qdrant's `update_filter`: a point that is there is replaced only if its version is lower. A filter
holds for a whole upsert, so a batch is one request of an upsert for each version in it. Qdrant does not say what it
left as it was: versions are read before, which saves writing duplicates, and after, which shows who won a race.
Collections measure by the dot product: with cosine Qdrant would normalize the vectors, and so change their bits.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from embakery.errors import ConfigurationError, StoreUnavailableError
from embakery.results import EmbeddingResult, Result, WriteOutcome
from storage.identities import identity, searched_set, write_newest
from storage.parts import write_parts

TIMEOUT_SECONDS = 5
# 32 MB is the server's limit for a request; a hundred points with 64 KiB of metadata each are well below.
_MAX_POINTS = 100
_OLDEST_SERVER = (1, 16)
_POINTS = uuid.UUID("8f2ae0c4-6d5e-5d0f-9a53-0d3f6d1c7b11")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class QdrantStore:
    """Writes points to the collections `collection-<first 16 of the space id>` and, for rankings, `...-rankings`.

    Collections that are missing are created: embeddings as the one unnamed dense vector, rankings as payload alone.
    local: the client works in this process (tests, laptops), where it must be used by one thread at a time.
    """

    def __init__(self, client: QdrantClient, *, collection: str, local: bool = False) -> None:
        self._client = client
        self._collection = collection
        self._lock = threading.Lock() if local else nullcontext()
        self._checked = local
        self._local = local
        self._ready: set[str] = set()

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        """Upsert each result if it is newer than what is there; a point that Qdrant refuses fails alone.

        Raises StoreUnavailableError if none could be written, ConfigurationError for a server before 1.16 or a
        collection that measures by cosine.
        """
        return write_newest(results, self._write)

    def close(self) -> None:
        """Drop the connections, or let go of the folder."""
        self._client.close()

    def _write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        groups: dict[str, list[tuple[int, Result]]] = {}
        for index, result in enumerate(results):
            groups.setdefault(searched_set(self._collection, result), []).append((index, result))
        return write_parts(len(results), groups, self._write_alone, split=_hundreds)

    def _write_alone(self, name: str, results: Sequence[Result]) -> list[WriteOutcome]:
        try:
            with self._lock:
                return self._write_part(name, results)
        except (ApiException, QdrantException) as error:
            # Not chained: answers quote what was sent.
            raise StoreUnavailableError(_describe(error)) from None

    def _write_part(self, name: str, results: Sequence[Result]) -> list[WriteOutcome]:
        try:
            self._ensure_collection(name, results[0])
            before = self._versions(name, results)
            pending = [result for result in results if before.get(point_id(result), -1) < result.version]
            if pending:
                self._upsert(name, pending)
            after = before | self._versions(name, pending)
        except (UnexpectedResponse, ValueError) as error:
            # ValueError: the local client's way to refuse.
            if isinstance(error, UnexpectedResponse) and error.status_code not in {400, 422}:
                self._ready.discard(name)
                raise
            if len(results) == 1:
                return [WriteOutcome.FAILED]
            middle = len(results) // 2
            return self._write_part(name, results[:middle]) + self._write_part(name, results[middle:])
        return [_outcome(result, before.get(point_id(result)), after.get(point_id(result))) for result in results]

    def _upsert(self, name: str, results: Sequence[Result]) -> None:
        by_version: dict[int, list[models.PointStruct]] = {}
        for result in results:
            by_version.setdefault(result.version, []).append(to_point(result))
        operations: list[Any] = [
            models.UpsertOperation(upsert=models.PointsList(points=points, update_filter=_older_than(version)))
            for version, points in sorted(by_version.items())
        ]
        self._client.batch_update_points(name, operations, wait=True)

    def _versions(self, name: str, results: Sequence[Result]) -> dict[str, int]:
        if not results:
            return {}
        ids: list[int | str | uuid.UUID] = [point_id(result) for result in results]
        found = self._client.retrieve(name, ids, with_payload=["version"], with_vectors=False)
        return {str(record.id): int((record.payload or {})["version"]) for record in found}

    def _ensure_collection(self, name: str, result: Result) -> None:
        if name in self._ready:
            return
        self._check_server()
        if not self._client.collection_exists(name):
            self._create(name, result)
        vectors = self._client.get_collection(name).config.params.vectors
        if isinstance(vectors, models.VectorParams) and vectors.distance == models.Distance.COSINE:
            raise ConfigurationError(
                f"qdrant: collection {name} measures by cosine, which changes vectors; make it with dot"
            )
        self._ready.add(name)

    def _create(self, name: str, result: Result) -> None:
        config: models.VectorParams | dict[str, models.VectorParams] = {}
        if isinstance(result, EmbeddingResult):
            config = models.VectorParams(size=result.vector.shape[0], distance=models.Distance.DOT)
        try:
            self._client.create_collection(name, vectors_config=config)
        except UnexpectedResponse as error:
            # Another writer made it at this moment.
            if error.status_code != 409:
                raise
        if not self._local:
            # The filter's own field, which servers in strict mode want indexed; and the one that searches filter by.
            tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
            self._client.create_payload_index(name, "version", models.PayloadSchemaType.INTEGER, wait=True)
            self._client.create_payload_index(name, "tenant", tenant, wait=True)

    def _check_server(self) -> None:
        """An older server takes no notice of `update_filter` and overwrites whatever is there."""
        if self._checked:
            return
        version = self._client.info().version
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST_SERVER:
            raise ConfigurationError(
                "qdrant: the server must be 1.16 or later: earlier ones have no conditional update"
            )
        self._checked = True


def open_qdrant(url: str, *, api_key: str | None) -> QdrantStore:
    """Open `qdrant+https://host:port/collection` or `qdrant+local:///folder/collection`. Raises ConfigurationError."""
    parts = urlsplit(url.removeprefix("qdrant+"))
    folder, _, collection = parts.path.rpartition("/")
    if not collection or (parts.scheme == "local") == bool(parts.netloc) or "@" in parts.netloc:
        raise ConfigurationError("must be qdrant+https://host:port/collection or qdrant+local:///folder/collection")
    if parts.scheme == "local":
        try:
            return QdrantStore(QdrantClient(path=folder), collection=collection, local=True)
        except RuntimeError:
            raise ConfigurationError("another process has this folder open") from None
    if api_key and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigurationError("an API key is sent over https only")
    client = QdrantClient(
        url=f"{parts.scheme}://{parts.netloc}{folder}",
        # As a header: the client warns of a key over http, which here can only be loopback.
        headers={"api-key": api_key} if api_key else None,
        timeout=TIMEOUT_SECONDS,
        # It asks in a thread and only warns; `_check_server` refuses.
        check_compatibility=False,
    )
    return QdrantStore(client, collection=collection)


def point_id(result: Result) -> str:
    """Name a point, since Qdrant's ids are numbers or UUIDs: UUIDv5 of tenant, kind, id and space."""
    return str(uuid.uuid5(_POINTS, json.dumps(identity(result))))


def to_point(result: Result) -> models.PointStruct:
    """Return a result as a point: its vector, and its row without the vector as payload."""
    payload: dict[str, Any] = {name: value for name, value in result.to_json().items() if name != "vector"}
    vector: Any = result.vector.tolist() if isinstance(result, EmbeddingResult) else {}
    return models.PointStruct(id=point_id(result), vector=vector, payload=payload)


def _older_than(version: int) -> models.Filter:
    # A float in Qdrant, and exact: versions end at 2^53 - 1.
    return models.Filter(must=[models.FieldCondition(key="version", range=models.Range(lt=version))])


def _outcome(result: Result, before: int | None, after: int | None) -> WriteOutcome:
    if before is not None and before >= result.version:
        return WriteOutcome.SUPERSEDED
    if after is None or after < result.version:
        return WriteOutcome.FAILED
    return WriteOutcome.WRITTEN if after == result.version else WriteOutcome.SUPERSEDED


def _hundreds(group: list[tuple[int, Result]]) -> list[list[tuple[int, Result]]]:
    return [group[start : start + _MAX_POINTS] for start in range(0, len(group), _MAX_POINTS)]


def _describe(error: Exception) -> str:
    status: Mapping[str, Any] | int | None = getattr(error, "status_code", None)
    source = getattr(error, "source", error)
    return f"qdrant: {status or type(source).__name__}"
