"""What is particular to Qdrant: what is asked over HTTP, spaces apart, servers and collections that would spoil it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from contract_fakes import VECTOR, embedding, ranking
from fake_qdrant import FakeQdrant
from places import QdrantHttpUnderTest, QdrantLocalUnderTest, point_row
from qdrant_client import models
from recording_servers import Answer, running

from embakery.errors import ConfigurationError, StoreUnavailableError
from embakery.results import Result, WriteOutcome
from storage.qdrant import open_qdrant, point_id

WRITTEN, SUPERSEDED, FAILED = WriteOutcome.WRITTEN, WriteOutcome.SUPERSEDED, WriteOutcome.FAILED


@pytest.fixture
def http() -> Iterator[QdrantHttpUnderTest]:
    place = QdrantHttpUnderTest()
    yield place
    place.close()


@pytest.fixture
def local() -> Iterator[QdrantLocalUnderTest]:
    place = QdrantLocalUnderTest()
    yield place
    place.close()


def upserts(http: QdrantHttpUnderTest) -> list[dict[str, Any]]:
    batches = [request for request in http.server.requests if request.path.endswith("/points/batch")]
    return [operation["upsert"] for batch in batches for operation in batch.json()["operations"]]


# What is asked over HTTP


def test_the_first_write_asks_for_the_version_and_makes_the_collection(http: QdrantHttpUnderTest) -> None:
    http.store.write([embedding()])
    assert http.server.paths() == [
        "GET /",
        "GET /collections/documents-space-1/exists",
        "PUT /collections/documents-space-1",
        "PUT /collections/documents-space-1/index",
        "PUT /collections/documents-space-1/index",
        "GET /collections/documents-space-1",
        "POST /collections/documents-space-1/points",
        "POST /collections/documents-space-1/points/batch",
        "POST /collections/documents-space-1/points",
    ]
    made = http.server.requests[2].json()
    assert made["vectors"]["size"] == 6
    assert made["vectors"]["distance"] == "Dot"
    indexes = [http.server.requests[place].json() for place in (3, 4)]
    assert indexes[0]["field_name"] == "version"
    assert (indexes[1]["field_name"], indexes[1]["field_schema"]["is_tenant"]) == ("tenant", True)


def test_later_writes_read_write_and_read(http: QdrantHttpUnderTest) -> None:
    http.store.write([embedding("a")])
    http.server.requests.clear()
    http.store.write([embedding("b")])
    points = "POST /collections/documents-space-1/points"
    assert http.server.paths() == [points, f"{points}/batch", points]
    assert "wait=true" in http.server.requests[1].query
    http.server.requests.clear()
    # What is there already is not sent again.
    assert http.store.write([embedding("b")]) == [SUPERSEDED]
    assert http.server.paths() == [points]


def test_each_version_has_its_own_filter(http: QdrantHttpUnderTest) -> None:
    http.store.write([embedding("a", version=7), embedding("b", version=2), embedding("c", version=7)])
    found = [(len(upsert["points"]), upsert["update_filter"]["must"]) for upsert in upserts(http)]
    assert [count for count, _ in found] == [1, 2]
    assert [(must["key"], must["range"]["lt"]) for _, (must,) in found] == [("version", 2), ("version", 7)]


def test_float32_survives_as_json(http: QdrantHttpUnderTest) -> None:
    http.store.write([embedding()])
    ((point,),) = (upsert["points"] for upsert in upserts(http))
    assert np.array(point["vector"], dtype=np.float32).tobytes() == VECTOR.tobytes()
    assert point["id"] == str(UUID(point["id"]))
    assert UUID(point["id"]).version == 5


def test_the_key_is_sent_as_qdrants_header(http: QdrantHttpUnderTest) -> None:
    http.store.write([embedding()])
    assert {request.headers.get("api-key") for request in http.server.requests} == {"key"}


def test_a_newer_version_between_reading_and_writing_wins(http: QdrantHttpUnderTest) -> None:
    http.store.write([embedding(version=1)])
    newer = embedding(version=9)
    answer = http.server.answer

    def overtaken(request: Any) -> Answer:
        if request.path.endswith("/points/batch"):
            key = ("documents-space-1", point_id(newer))
            http.server.points[key]["payload"]["version"] = 9
        return answer(request)

    http.server.answer = overtaken  # type: ignore[method-assign]
    assert http.store.write([embedding(version=2)]) == [SUPERSEDED]
    assert http.current()["acme", "embedding", "doc-1", "space-1"]["version"] == 9


# Servers and collections that would spoil it


@pytest.mark.parametrize("version", ["1.15.5", "0.11.0", "unknown"])
def test_a_server_without_conditional_updates_is_refused(version: str) -> None:
    server = FakeQdrant(version)
    with running(server):
        store = open_qdrant(f"qdrant+http://{server.address}/documents", api_key=None)
        with pytest.raises(ConfigurationError, match=r"1\.16 or later"):
            store.write([embedding()])
        store.close()
    assert server.points == {}


def test_a_collection_that_normalizes_is_refused(local: QdrantLocalUnderTest) -> None:
    cosine = models.VectorParams(size=6, distance=models.Distance.COSINE)
    local.client.create_collection("documents-space-1", vectors_config=cosine)
    with pytest.raises(ConfigurationError, match="measures by cosine"):
        local.store.write([embedding()])


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_server_that_refuses_everything_is_unavailable(http: QdrantHttpUnderTest, status: int) -> None:
    http.server.broken = Answer(status, {"status": {"error": "canary"}})
    with pytest.raises(StoreUnavailableError) as caught:
        http.store.write([embedding(), ranking()])
    assert str(caught.value) == f"qdrant: {status}"


def test_a_server_that_throttles_is_unavailable(http: QdrantHttpUnderTest) -> None:
    http.server.broken = Answer(429, {"status": {"error": "canary"}}, {"Retry-After": "1"})
    with pytest.raises(StoreUnavailableError, match=r"^qdrant: ResourceExhaustedResponse$"):
        http.store.write([embedding()])


def test_a_point_that_qdrant_refuses_fails_alone(http: QdrantHttpUnderTest, local: QdrantLocalUnderTest) -> None:
    batch: list[Result] = [embedding(str(n), vector=VECTOR if n != 5 else VECTOR[:3]) for n in range(12)]
    for place in (http, local):
        outcomes = place.store.write(batch)
        assert [n for n, outcome in enumerate(outcomes) if outcome is FAILED] == [5]
        assert place.effects() == 11


def test_a_collection_that_is_deleted_is_made_again(http: QdrantHttpUnderTest) -> None:
    http.store.write([embedding("a")])
    http.server.broken = Answer(404, {"status": {"error": "Not found: Collection"}})
    with pytest.raises(StoreUnavailableError):
        http.store.write([embedding("b")])
    http.server.broken = None
    http.server.collections.clear()
    assert http.store.write([embedding("b")]) == [WRITTEN]


# Spaces, and local mode


def test_each_space_has_a_collection_and_rankings_one_without_vectors(local: QdrantLocalUnderTest) -> None:
    long = "0123456789abcdef" * 4
    local.store.write([embedding(), embedding(space_id=long, vector=VECTOR[:3]), ranking()])
    names = sorted(collection.name for collection in local.client.get_collections().collections)
    assert names == ["documents-0123456789abcdef", "documents-space-1", "documents-space-1-rankings"]


def test_a_search_finds_by_tenant(local: QdrantLocalUnderTest) -> None:
    vectors = np.eye(3, dtype=np.float32)
    local.store.write([embedding(str(n), vector=vectors[n], tenant="acme" if n else "other") for n in range(3)])
    only = models.Filter(must=[models.FieldCondition(key="tenant", match=models.MatchValue(value="acme"))])
    found = local.client.query_points("documents-space-1", query=[3.0, 2.0, 1.0], query_filter=only).points
    assert [(point.payload or {})["id"] for point in found] == ["1", "2"]


def test_a_local_folder_keeps_what_was_written(tmp_path: Path) -> None:
    url = f"qdrant+local://{tmp_path}/documents"
    store = open_qdrant(url, api_key=None)
    assert store.write([embedding(version=3)]) == [WRITTEN]
    store.close()
    store = open_qdrant(url, api_key=None)
    assert store.write([embedding(version=2), embedding("b")]) == [SUPERSEDED, WRITTEN]
    (record,) = store._client.retrieve("documents-space-1", [point_id(embedding())], with_vectors=True)
    assert json.dumps(point_row(record.payload, record.vector), sort_keys=True) == json.dumps(
        embedding(version=3).to_json(), sort_keys=True
    )
    store.close()


# The client leaves the lock's file open when it does not get the lock.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_local_folder_has_one_process(tmp_path: Path) -> None:
    url = f"qdrant+local://{tmp_path}/documents"
    store = open_qdrant(url, api_key=None)
    with pytest.raises(ConfigurationError, match="another process has this folder open"):
        open_qdrant(url, api_key=None)
    store.close()


@pytest.mark.parametrize(
    "url", ["qdrant+http://host:1", "qdrant+https:///c", "qdrant+local://host/c", "qdrant+local:///c/"]
)
def test_urls_that_name_no_collection_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        open_qdrant(url, api_key=None)


def test_a_key_is_not_sent_in_the_clear() -> None:
    with pytest.raises(ConfigurationError, match="https only"):
        open_qdrant("qdrant+http://example.com/c", api_key="canary")
