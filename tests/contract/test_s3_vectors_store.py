"""What is particular to S3 Vectors: what is asked, its limits, and the reader's rule of its log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from contract_fakes import VECTOR, embedding, ranking
from places import S3VectorsUnderTest
from recording_servers import Answer

from embakery.errors import StoreUnavailableError
from embakery.results import Result, WriteOutcome
from storage.identities import identity_digest
from storage.s3_vectors import current_vectors, drop_outdated, is_too_large, to_vector

WRITTEN, SUPERSEDED, FAILED = WriteOutcome.WRITTEN, WriteOutcome.SUPERSEDED, WriteOutcome.FAILED


@pytest.fixture
def place() -> Iterator[S3VectorsUnderTest]:
    made = S3VectorsUnderTest()
    yield made
    made.close()


def test_an_index_that_is_missing_is_made_at_the_first_write_only(place: S3VectorsUnderTest) -> None:
    place.store.write([embedding("a")])
    place.store.write([embedding("b")])
    assert place.server.paths() == [
        "POST /PutVectors",
        "POST /CreateIndex",
        "POST /PutVectors",
        "POST /PutVectors",
    ]
    assert place.server.requests[1].json() == {
        "vectorBucketName": "vectors",
        "indexName": "documents-space-1",
        "dataType": "float32",
        "dimension": 6,
        "distanceMetric": "cosine",
        "metadataConfiguration": {"nonFilterableMetadataKeys": ["row"]},
    }


def test_a_vector_is_float32_under_a_key_with_its_version(place: S3VectorsUnderTest) -> None:
    result = embedding(version=7)
    place.store.write([result])
    ((vector,),) = (request.json()["vectors"] for request in place.server.requests[2:])
    assert vector["key"] == f"{identity_digest(result)}#7"
    assert np.array(vector["data"]["float32"], dtype=np.float32).tobytes() == VECTOR.tobytes()
    filterable = {name: value for name, value in vector["metadata"].items() if name != "row"}
    assert filterable == {
        "document": identity_digest(result),
        "tenant": "acme",
        "kind": "embedding",
        "version": 7,
    }


def test_an_index_that_another_writer_made_meanwhile_is_taken(place: S3VectorsUnderTest) -> None:
    answer = place.server.answer
    hidden = iter([Answer(404, {"message": "no"}, {"x-amzn-errortype": "NotFoundException"})])
    place.store.write([embedding("a")])
    place.server.answer = lambda request: next(hidden, None) or answer(request)  # type: ignore[method-assign]
    assert place.store.write([embedding("b")]) == [WRITTEN]


def test_spaces_and_rankings_have_indexes_of_their_own(place: S3VectorsUnderTest) -> None:
    long = "0123456789abcdef" * 4
    place.store.write([embedding(), embedding(space_id=long, vector=VECTOR[:3]), ranking()])
    made = {name: index["dimension"] for name, index in place.server.indexes.items()}
    assert made == {"documents-space-1": 6, "documents-0123456789abcdef": 3, "documents-space-1-rankings": 1}


# Limits


def test_five_hundred_vectors_a_request(place: S3VectorsUnderTest) -> None:
    batch: list[Result] = [embedding(str(n)) for n in range(1100)]
    assert place.store.write(batch) == [WRITTEN] * 1100
    puts = [request.json()["vectors"] for request in place.server.requests if request.path == "/PutVectors"]
    assert [len(vectors) for vectors in puts] == [500, 500, 500, 100]


def test_requests_stay_below_twenty_mebibytes(place: S3VectorsUnderTest) -> None:
    vector = np.random.default_rng(3).standard_normal(3072).astype(np.float32)
    batch: list[Result] = [embedding(str(n), vector=vector) for n in range(400)]
    assert place.store.write(batch) == [WRITTEN] * 400
    assert max(len(request.body) for request in place.server.requests) <= 20 * 1024 * 1024


def test_metadata_above_forty_kilobytes_fails_alone_and_is_not_sent(place: S3VectorsUnderTest) -> None:
    batch: list[Result] = [embedding("a"), embedding("b", metadata={"m": "m" * 40_000}), embedding("c")]
    assert place.store.write(batch) == [WRITTEN, FAILED, WRITTEN]
    assert place.store.write(batch[1:2]) == [FAILED]
    assert max(len(request.body) for request in place.server.requests) < 10_000


def test_dimensions_above_4096_are_not_sent() -> None:
    assert not is_too_large(to_vector(embedding(vector=np.ones(4096, dtype=np.float32))))
    assert is_too_large(to_vector(embedding(vector=np.ones(4097, dtype=np.float32))))


def test_a_vector_that_is_refused_fails_alone(place: S3VectorsUnderTest) -> None:
    batch: list[Result] = [embedding(str(n), vector=VECTOR if n != 5 else VECTOR[:3]) for n in range(12)]
    assert [n for n, outcome in enumerate(place.store.write(batch)) if outcome is FAILED] == [5]


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, "TooManyRequestsException"), (403, "AccessDeniedException"), (503, "ServiceUnavailableException")],
)
def test_a_service_that_takes_nothing_is_unavailable(place: S3VectorsUnderTest, status: int, code: str) -> None:
    place.server.broken = Answer(status, {"message": "canary"}, {"x-amzn-errortype": code})
    with pytest.raises(StoreUnavailableError) as caught:
        place.store.write([embedding(), ranking()])
    assert str(caught.value).partition(";")[0] == f"s3vectors refused a write: {code}"


# The reader's rule


def test_of_a_listing_the_highest_version_counts(place: S3VectorsUnderTest) -> None:
    for version in (2, 10, 9):
        place.store.write([embedding("a", version=version), embedding("b", version=1)])
    listed = place.client.list_vectors(vectorBucketName="vectors", indexName="documents-space-1")["vectors"]
    assert len(listed) == 4
    assert sorted(vector["metadata"]["version"] for vector in current_vectors(listed)) == [1, 10]


def test_a_hit_of_an_older_version_is_dropped_though_the_newer_was_not_hit(place: S3VectorsUnderTest) -> None:
    place.store.write([embedding("a", version=1), embedding("b", version=1)])
    place.store.write([embedding("a", version=2, vector=-VECTOR)])
    hits: list[Any] = [to_vector(embedding(id_, version=1)) for id_ in ("a", "b")]
    kept = drop_outdated(place.client, bucket="vectors", index="documents-space-1", query=VECTOR.tolist(), hits=hits)
    assert [vector["key"] for vector in kept] == [to_vector(embedding("b"))["key"]]
