"""One contract over every result store: exactly one effect, and never an older version over a newer one."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from contract_fakes import (
    VECTOR,
    DynamoDBUnderTest,
    MemoryUnderTest,
    S3UnderTest,
    SqsUnderTest,
    StoreUnderTest,
    embedding,
    ranking,
)
from places import (
    OpenSearchUnderTest,
    PostgresUnderTest,
    QdrantHttpUnderTest,
    QdrantLocalUnderTest,
    S3VectorsUnderTest,
)
from postgres_server import PostgresServer

from embakery.results import Result, WriteOutcome
from embakery.vectors import from_base64
from local.resources import AwsClients
from storage.identities import identity
from storage.s3 import current_rows, read_rows

WRITTEN, SUPERSEDED, FAILED = WriteOutcome.WRITTEN, WriteOutcome.SUPERSEDED, WriteOutcome.FAILED


def make_s3(clients: AwsClients) -> S3UnderTest:
    return S3UnderTest(clients, "contract", f"{uuid.uuid4().hex}/")


def make_dynamodb(clients: AwsClients) -> DynamoDBUnderTest:
    name = uuid.uuid4().hex
    clients.dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    return DynamoDBUnderTest(clients, name)


def make_sqs(clients: AwsClients) -> SqsUnderTest:
    return SqsUnderTest(clients, clients.sqs.create_queue(QueueName=uuid.uuid4().hex)["QueueUrl"])


def make_fifo(clients: AwsClients) -> SqsUnderTest:
    name = f"{uuid.uuid4().hex}.fifo"
    return SqsUnderTest(clients, clients.sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})["QueueUrl"])


def with_pgvector(server: PostgresServer) -> PostgresUnderTest:
    return PostgresUnderTest(server.database("with_pgvector"), pgvector=True)


def without_pgvector(server: PostgresServer) -> PostgresUnderTest:
    return PostgresUnderTest(server.database("without_pgvector"), pgvector=False)


AWS: dict[str, Callable[[AwsClients], StoreUnderTest]] = {
    "s3": make_s3,
    "dynamodb": make_dynamodb,
    "sqs": make_sqs,
    "sqs-fifo": make_fifo,
}
POSTGRES: dict[str, Callable[[PostgresServer], StoreUnderTest]] = {
    "pgvector": with_pgvector,
    "postgres": without_pgvector,
}
ALONE: dict[str, Callable[[], StoreUnderTest]] = {
    "memory": MemoryUnderTest,
    "qdrant-local": QdrantLocalUnderTest,
    "qdrant-http": QdrantHttpUnderTest,
    "opensearch": OpenSearchUnderTest,
    "s3-vectors": S3VectorsUnderTest,
}


@pytest.fixture(params=[*ALONE, *AWS, *POSTGRES])
def place(request: pytest.FixtureRequest) -> Iterator[StoreUnderTest]:
    name = request.param
    if name in ALONE:
        made = ALONE[name]()
    elif name in AWS:
        made = AWS[name](request.getfixturevalue("aws"))
    else:
        made = POSTGRES[name](request.getfixturevalue("postgres"))
    yield made
    made.close()


def test_a_result_is_written_with_all_that_it_says(place: StoreUnderTest) -> None:
    result = embedding()
    assert place.store.write([result]) == [WRITTEN]
    assert place.current() == {("acme", "embedding", "doc-1", "space-1"): result.to_json()}


def test_a_ranking_is_written_with_all_that_it_says(place: StoreUnderTest) -> None:
    result = ranking()
    assert place.store.write([result]) == [WRITTEN]
    row = place.current()["acme", "rerank", "q-1", "space-1"]
    assert row == result.to_json()
    assert row["ranking"][1] == {"id": "d 0", "index": 0, "score": 1 / 3}


def test_vectors_come_back_bit_for_bit(place: StoreUnderTest) -> None:
    vectors = [VECTOR, np.random.default_rng(7).standard_normal(384).astype(np.float32)]
    # A space has one dimension.
    place.store.write([embedding(space_id=f"space-{vector.size}", vector=vector) for vector in vectors])
    rows = place.current()
    for vector in vectors:
        back = from_base64(rows["acme", "embedding", "doc-1", f"space-{vector.size}"]["vector"])
        assert back.tobytes() == vector.tobytes()


def test_the_same_batch_again_has_no_second_effect(place: StoreUnderTest) -> None:
    batch: list[Result] = [embedding("a"), embedding("b"), ranking("q")]
    assert place.store.write(batch) == [WRITTEN] * 3
    assert place.effects() == 3
    before = place.current()
    assert place.store.write(batch) == [place.repeated] * 3
    assert place.store.write(batch) == [place.repeated] * 3
    assert place.effects() == 3
    assert place.current() == before


def test_a_result_that_comes_again_among_others_changes_nothing(place: StoreUnderTest) -> None:
    place.store.write([embedding("a"), embedding("b")])
    before = place.current()
    outcomes = place.store.write([embedding("b"), embedding("c")])
    assert WriteOutcome.FAILED not in outcomes
    assert place.current() == before | {identity(embedding("c")): embedding("c").to_json()}


def test_a_result_twice_in_one_batch_has_one_effect(place: StoreUnderTest) -> None:
    assert WriteOutcome.FAILED not in place.store.write([embedding(), embedding()])
    assert place.effects() == 1


def test_a_higher_version_takes_the_place_of_a_lower_one(place: StoreUnderTest) -> None:
    newer = embedding(version=2, vector=VECTOR[::-1].copy(), metadata={})
    assert place.store.write([embedding(version=1)]) == [WRITTEN]
    assert place.store.write([newer]) == [WRITTEN]
    assert place.current() == {identity(newer): newer.to_json()}


def test_a_lower_version_that_comes_late_is_a_success_and_changes_nothing(place: StoreUnderTest) -> None:
    newer = embedding(version=2**53 - 1)
    place.store.write([newer, replace(ranking(), version=5)])
    older: list[Result] = [embedding(version=0, vector=VECTOR[::-1].copy()), replace(ranking(), version=4)]
    assert place.store.write(older) == [place.late] * 2
    assert {key: row["version"] for key, row in place.current().items()} == {
        ("acme", "embedding", "doc-1", "space-1"): 2**53 - 1,
        ("acme", "rerank", "q-1", "space-1"): 5,
    }
    assert place.current()[identity(newer)] == newer.to_json()


def test_versions_are_compared_as_numbers(place: StoreUnderTest) -> None:
    for version in (9, 10, 2):
        place.store.write([embedding(version=version)])
    assert [row["version"] for row in place.current().values()] == [10]


def test_the_highest_of_several_versions_in_one_batch_counts(place: StoreUnderTest) -> None:
    outcomes = place.store.write([embedding(version=version) for version in (2, 3, 1)])
    assert WriteOutcome.FAILED not in outcomes
    assert [row["version"] for row in place.current().values()] == [3]


def test_kinds_spaces_and_tenants_do_not_touch_one_another(place: StoreUnderTest) -> None:
    batch: list[Result] = [
        embedding("x", version=5),
        ranking("x", version=1),
        embedding("x", version=2, space_id="space-2"),
        embedding("x", version=3, tenant="other"),
    ]
    assert place.store.write(batch) == [WRITTEN] * 4
    assert place.current() == {identity(result): result.to_json() for result in batch}


UNUSUAL_IDS = [
    "a#b",
    "a",
    "#",
    "a/b",
    "../../etc/passwd",
    "/",
    "with space",
    " with space",
    "a+b%20c?d=e&f",
    "Ü",
    "U\u0308",
    "語\U0001f600",
    "x" * 256,
    "\U0001f600" * 256,
    "quote\"'\\`${jndi}",
    "line\nend\r\u2028\u0085",
    "\x01\x1f\x7f",
    "\ufffe\uffff\ufeff",
    "null",
    "1",
]


def test_unusual_ids_stay_apart_and_come_back_as_they_were(place: StoreUnderTest) -> None:
    batch: list[Result] = [embedding(id_, metadata={id_: id_}) for id_ in UNUSUAL_IDS]
    assert place.store.write(batch) == [WRITTEN] * len(UNUSUAL_IDS)
    assert place.current() == {identity(result): result.to_json() for result in batch}
    assert place.store.write(batch) == [place.repeated] * len(UNUSUAL_IDS)
    assert place.effects() == len(UNUSUAL_IDS)


def test_an_id_that_holds_nul_is_stored_or_fails_alone(place: StoreUnderTest) -> None:
    batch: list[Result] = [embedding("a"), embedding("nul\0"), embedding("b")]
    outcomes = place.store.write(batch)
    assert [outcomes[0], outcomes[2]] == [WRITTEN] * 2
    stored = [result for result, outcome in zip(batch, outcomes, strict=True) if outcome is WRITTEN]
    assert place.current() == {identity(result): result.to_json() for result in stored}


def test_metadata_that_holds_nul_and_odd_numbers_comes_back(place: StoreUnderTest) -> None:
    metadata = {"nul\0": "\0", "zero": -0.0, "tiny": 5e-324, "deep": [{"a": [None, True]}], "": {}}
    result = embedding(metadata=metadata)
    assert place.store.write([result]) == [WRITTEN]
    row = place.current()[identity(result)]
    assert json.dumps(row["metadata"], sort_keys=True) == json.dumps(metadata, sort_keys=True)


def test_writers_that_race_end_with_the_highest_version(place: StoreUnderTest) -> None:
    """Six writers, each with other ids before the one they share, so that batches overlap in any order."""
    store = place.store
    batches = [[embedding(id_, version=version) for id_ in ("a", "b", "c")] for version in range(24)]
    order = np.random.default_rng(5).permutation(24)
    with ThreadPoolExecutor(6) as pool:
        written = list(pool.map(store.write, [batches[number][:: 1 - 2 * (number % 2)] for number in order]))
    assert all(FAILED not in outcomes for outcomes in written)
    assert {row["id"]: row["version"] for row in place.current().values()} == {"a": 23, "b": 23, "c": 23}


def test_of_writers_with_the_same_batch_one_has_the_effect(place: StoreUnderTest) -> None:
    store = place.store
    batch: list[Result] = [embedding(str(number)) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(store.write, [batch, batch[::-1], batch, batch[::-1]]))
    assert all(FAILED not in outcomes for outcomes in written)
    assert place.current() == {identity(result): result.to_json() for result in batch}


def test_the_largest_batch_of_the_largest_metadata(place: StoreUnderTest) -> None:
    """64 KiB of metadata each, of two bytes a character: over every limit of a single request."""
    batch: list[Result] = [embedding(f"doc-{number}", metadata={"m": "é" * 32_000}) for number in range(25)]
    outcomes = place.store.write(batch)
    if not place.takes_large_metadata:
        assert outcomes == [FAILED] * 25
        assert place.effects() == 0
        return
    assert outcomes == [WRITTEN] * 25
    assert place.current() == {identity(result): result.to_json() for result in batch}


def test_nothing_to_write(place: StoreUnderTest) -> None:
    assert place.store.write([]) == []
    assert place.effects() == 0


# What is particular to one store


def test_s3_puts_one_object_for_each_kind_and_space_under_a_key_of_its_content(aws: AwsClients) -> None:
    place = make_s3(aws)
    place.store.write([embedding("a"), ranking(), embedding("b"), embedding("c", space_id="space-2")])
    listed = aws.s3.list_objects_v2(Bucket=place.bucket, Prefix=place.prefix)["Contents"]
    keys = sorted(entry["Key"].removeprefix(place.prefix) for entry in listed)
    assert [key.rpartition("/")[0] for key in keys] == ["space-1/embedding", "space-1/rerank", "space-2/embedding"]
    assert all(key.endswith(".jsonl.gz") for key in keys)
    first = aws.s3.get_object(Bucket=place.bucket, Key=place.prefix + keys[0])
    assert (first["ContentType"], first["ContentEncoding"]) == ("application/jsonl", "gzip")
    lines = gzip.decompress(first["Body"].read()).decode().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b"]


def test_s3_gives_a_batch_the_same_key_in_any_order(aws: AwsClients) -> None:
    place = make_s3(aws)
    assert place.store.write([embedding("a"), embedding("b")]) == [WRITTEN] * 2
    assert place.store.write([embedding("b"), embedding("a")]) == [SUPERSEDED] * 2


def test_s3_reads_more_objects_than_a_page_lists(aws: AwsClients, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_s3(aws)
    for number in range(3):
        place.store.write([embedding(str(number))])
    listed = aws.s3.get_paginator("list_objects_v2")
    paged = listed.paginate(Bucket=place.bucket, Prefix=place.prefix, PaginationConfig={"PageSize": 2})

    class SmallPages:
        def paginate(self, **_: Any) -> Any:
            return paged

    monkeypatch.setattr(aws.s3, "get_paginator", lambda _: SmallPages())
    assert sorted(row["id"] for row in read_rows(aws.s3, bucket=place.bucket, prefix=place.prefix)) == ["0", "1", "2"]


def test_two_texts_under_one_version_are_decided_the_same_way_in_any_order() -> None:
    rows = [embedding(vector=VECTOR).to_json(), embedding(vector=VECTOR[::-1].copy()).to_json()]
    assert current_rows(rows) == current_rows(rows[::-1])
    assert len(current_rows(rows)) == 1


def test_dynamodb_keeps_vectors_as_binary_under_a_readable_key(aws: AwsClients) -> None:
    place = make_dynamodb(aws)
    place.store.write([embedding()])
    key = {"pk": {"S": "acme#doc-1"}, "sk": {"S": "space-1#embedding"}}
    item = aws.dynamodb.get_item(TableName=place.table, Key=key)["Item"]
    assert item["vector"] == {"B": VECTOR.astype("<f4").tobytes()}
    assert item["version"] == {"N": "1"}


def test_fifo_keeps_one_ids_results_in_order_and_apart_from_other_ids(aws: AwsClients) -> None:
    place = make_fifo(aws)
    place.store.write([embedding("a", version=version) for version in (1, 2, 3)] + [embedding("b")])
    answer = aws.sqs.receive_message(
        QueueUrl=place.queue_url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["MessageGroupId"]
    )
    groups: dict[str, list[tuple[str, int]]] = {}
    for message in answer["Messages"]:
        row = json.loads(message["Body"])
        groups.setdefault(message["Attributes"]["MessageGroupId"], []).append((row["id"], row["version"]))
    assert sorted(groups.values()) == [[("a", 1), ("a", 2), ("a", 3)], [("b", 1)]]
