"""Stores in trouble: failures told result by result, on clients that fail when they are told, and on dead ends."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from contract_fakes import embedding, ranking

from embakery.errors import StoreUnavailableError
from embakery.results import Result, ResultStore, WriteOutcome
from local.processes import free_port
from local.resources import AwsClients
from storage.destinations import open_store
from storage.dynamodb import DynamoDBStore, item_bytes
from storage.s3 import S3Store
from storage.sqs import SqsStore

WRITTEN, SUPERSEDED, FAILED = WriteOutcome.WRITTEN, WriteOutcome.SUPERSEDED, WriteOutcome.FAILED
CANARY = "the-canary-sings"


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": CANARY}}, "Operation")


DEAD = EndpointConnectionError(endpoint_url="http://nowhere")
SLOW = ReadTimeoutError(endpoint_url="http://nowhere")


@dataclass
class FakeS3:
    """Raises for keys that hold one of some parts."""

    errors: dict[str, Exception]
    keys: list[str] = field(default_factory=list)

    def put_object(self, *, Key: str, **_: Any) -> None:  # noqa: N803 - boto3's own name
        for part, error in self.errors.items():
            if part in Key:
                raise error
        self.keys.append(Key)


@dataclass
class FakeDynamoDB:
    """Raises for some ids, or for all."""

    errors: dict[str, Exception]
    always: Exception | None = None
    tried: list[str] = field(default_factory=list)

    def put_item(self, *, Item: dict[str, Any], **_: Any) -> None:  # noqa: N803 - boto3's own name
        self.tried.append(Item["id"]["S"])
        error = self.errors.get(Item["id"]["S"], self.always)
        if error is not None:
            raise error


@dataclass
class FakeSqs:
    """Refuses some entries; raises for some calls, counted from 0."""

    refused: frozenset[str] = frozenset()
    errors: dict[int, Exception] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)

    def send_message_batch(self, *, Entries: list[Any], **_: Any) -> dict[str, Any]:  # noqa: N803 - boto3's own name
        self.sizes.append(len(Entries))
        error = self.errors.get(len(self.sizes) - 1)
        if error is not None:
            raise error
        self.bodies += [entry["MessageBody"] for entry in Entries]
        failed = [{"Id": entry["Id"], "Code": "InternalError"} for entry in Entries if entry["Id"] in self.refused]
        return {"Failed": failed} if failed else {}


def s3(**errors: Exception) -> S3Store:
    return S3Store(FakeS3(errors), bucket="bucket", prefix="p/")  # type: ignore[arg-type]


def dynamodb(**errors: Exception) -> DynamoDBStore:
    return DynamoDBStore(FakeDynamoDB(errors), table="table")  # type: ignore[arg-type]


def sqs(client: FakeSqs) -> SqsStore:
    return SqsStore(client, queue_url="https://queue")  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [refused("SlowDown"), refused("ConditionalRequestConflict"), DEAD, SLOW])
def test_s3_fails_the_kind_that_could_not_be_put(error: Exception) -> None:
    batch: list[Result] = [embedding("a"), ranking("q"), embedding("b")]
    assert s3(rerank=error).write(batch) == [WRITTEN, FAILED, WRITTEN]
    assert s3(embedding=error).write(batch) == [FAILED, WRITTEN, FAILED]


def test_s3_goes_on_after_a_failure() -> None:
    client = FakeS3({"embedding": DEAD})
    store = S3Store(client, bucket="bucket", prefix="p/")  # type: ignore[arg-type]
    store.write([embedding("a"), ranking("q")])
    assert [key.startswith("p/space-1/rerank/") for key in client.keys] == [True]


def test_s3_tells_what_is_there_already_from_what_failed() -> None:
    store = s3(rerank=refused("PreconditionFailed"), embedding=refused("InternalError"))
    assert store.write([embedding("a"), ranking("q")]) == [FAILED, SUPERSEDED]


def test_dynamodb_fails_the_item_that_could_not_be_put() -> None:
    store = dynamodb(
        b=refused("ProvisionedThroughputExceededException"),
        c=refused("ConditionalCheckFailedException"),
        d=DEAD,
        e=SLOW,
    )
    assert store.write([embedding(id_) for id_ in "abcde"]) == [WRITTEN, FAILED, SUPERSEDED, FAILED, FAILED]


def test_dynamodb_that_only_has_everything_already_is_no_failure() -> None:
    assert dynamodb(a=refused("ConditionalCheckFailedException")).write([embedding("a")]) == [SUPERSEDED]


@pytest.mark.parametrize("error", [DEAD, SLOW, refused("ResourceNotFoundException"), refused("AccessDeniedException")])
def test_dynamodb_gives_up_a_table_that_does_not_answer(error: Exception) -> None:
    client = FakeDynamoDB({}, always=error)
    with pytest.raises(StoreUnavailableError):
        DynamoDBStore(client, table="table").write([embedding(str(n)) for n in range(300)])  # type: ignore[arg-type]
    # Ten writers at once: those under way end, nobody begins.
    assert len(client.tried) <= 13


def test_dynamodb_tries_every_item_of_a_table_that_throttles() -> None:
    client = FakeDynamoDB({}, always=refused("ProvisionedThroughputExceededException"))
    with pytest.raises(StoreUnavailableError, match="ProvisionedThroughputExceededException"):
        DynamoDBStore(client, table="table").write([embedding(str(n)) for n in range(30)])  # type: ignore[arg-type]
    assert len(client.tried) == 30


def test_dynamodb_does_not_try_what_is_larger_than_an_item() -> None:
    client = FakeDynamoDB({})
    vector = np.ones(100_001, dtype=np.float32)
    batch: list[Result] = [embedding("a"), embedding("large", vector=vector, metadata={"m": "m" * 10_000})]
    store = DynamoDBStore(client, table="table")  # type: ignore[arg-type]
    assert store.write(batch) == [WRITTEN, FAILED]
    # Alone it is no trouble of the table's either.
    assert store.write(batch[1:]) == [FAILED]
    assert client.tried == ["a"]


def test_dynamodb_counts_an_item_as_dynamodb_does() -> None:
    assert item_bytes({"é": {"S": "é"}, "n": {"N": "1234"}, "v": {"B": b"12345678"}, "t": {"BOOL": True}}) == 19


def test_a_lower_version_fails_with_the_higher_one_of_its_batch() -> None:
    """It would be lost otherwise, were the higher one never written."""
    store = dynamodb(a=DEAD)
    outcomes = store.write([embedding("a", version=1), embedding("a", version=2), embedding("b"), embedding("b")])
    assert outcomes == [FAILED, FAILED, WRITTEN, SUPERSEDED]


def test_sqs_fails_the_entries_that_the_queue_names() -> None:
    batch: list[Result] = [embedding(str(number)) for number in range(12)]
    outcomes = sqs(FakeSqs(refused=frozenset({"1", "11"}))).write(batch)
    assert [place for place, outcome in enumerate(outcomes) if outcome is FAILED] == [1, 11]
    assert outcomes.count(WRITTEN) == 10


@pytest.mark.parametrize("error", [refused("ServiceUnavailable"), DEAD, SLOW])
def test_sqs_fails_a_whole_call_that_got_no_answer_and_goes_on(error: Exception) -> None:
    client = FakeSqs(errors={1: error})
    outcomes = sqs(client).write([embedding(str(number)) for number in range(25)])
    assert client.sizes == [10, 10, 5]
    assert outcomes == [WRITTEN] * 10 + [FAILED] * 10 + [WRITTEN] * 5


def test_sqs_calls_stay_within_a_mebibyte() -> None:
    client = FakeSqs()
    sqs(client).write([embedding(str(number), metadata={"m": "m" * 240_000}) for number in range(6)])
    assert client.sizes == [4, 2]


def test_sqs_bodies_hold_only_characters_that_sqs_takes() -> None:
    client = FakeSqs()
    sqs(client).write([embedding("\ufffe\uffff \x01", metadata={"\uffff": "\ufffe"})])
    assert client.bodies[0].isascii()
    assert client.bodies[0].isprintable()


DOWN: list[Callable[[], ResultStore]] = [
    lambda: s3(embedding=refused("SlowDown"), rerank=DEAD),
    lambda: dynamodb(a=refused("InternalServerError"), b=DEAD, q=SLOW),
    lambda: sqs(FakeSqs(errors={0: refused("ServiceUnavailable")})),
    lambda: sqs(FakeSqs(refused=frozenset("012"))),
]


@pytest.mark.parametrize("make", DOWN, ids=["s3", "dynamodb", "sqs", "sqs entries"])
def test_a_store_that_takes_nothing_raises_without_quoting_what_it_was_told(make: Callable[[], ResultStore]) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        make().write([embedding("a"), ranking("q"), embedding("b")])
    assert CANARY not in str(caught.value)


# Dead ends


STORES: dict[str, Callable[[AwsClients], ResultStore]] = {
    "s3": lambda clients: S3Store(clients.s3, bucket="nobody-made-it", prefix=""),
    "dynamodb": lambda clients: DynamoDBStore(clients.dynamodb, table="nobody-made-it"),
    "sqs": lambda clients: SqsStore(clients.sqs, queue_url=f"{clients.sqs.meta.endpoint_url}/000000000000/nobody"),
}
UNREACHABLE = {
    "postgres": "postgresql://me:the-canary-sings@127.0.0.1:{port}/db",
    "qdrant": "qdrant+http://127.0.0.1:{port}/documents",
    "opensearch": "opensearch+http://127.0.0.1:{port}/documents",
    "s3vectors": "s3vectors://bucket/index",
}


@pytest.fixture
def unreachable() -> Iterator[AwsClients]:
    clients = AwsClients.connect(f"http://127.0.0.1:{free_port()}")
    yield clients
    clients.close()


@pytest.mark.parametrize("name", STORES)
def test_an_unreachable_endpoint_is_an_unavailable_store(unreachable: AwsClients, name: str) -> None:
    with pytest.raises(StoreUnavailableError):
        STORES[name](unreachable).write([embedding("a"), embedding("b")])


@pytest.mark.parametrize("name", STORES)
def test_a_bucket_table_or_queue_that_is_not_there_is_an_unavailable_store(aws: AwsClients, name: str) -> None:
    with pytest.raises(StoreUnavailableError):
        STORES[name](aws).write([embedding(uuid.uuid4().hex)])


@pytest.mark.parametrize("name", UNREACHABLE)
def test_an_unreachable_server_is_an_unavailable_store(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for variable in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "us-east-1")
    store = open_store(name, UNREACHABLE[name].format(port=port))
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError) as caught:
        store.write([embedding("a"), embedding("b"), ranking()])
    assert time.monotonic() - started < 10
    assert CANARY not in str(caught.value)
    assert str(port) not in str(caught.value)
