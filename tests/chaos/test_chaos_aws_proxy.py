"""Each fault of the proxy before AWS, with an emulator behind it and the project's own clients before it."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from aws_faults import Rates, Service, Trouble
from aws_proxy import FaultyAws
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from local.environment import aws_environment
from local.processes import ServerProcess
from local.servers import start_ministack
from storage.clients import open_client

# No second try hides a fault.
ONE_TRY = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10)
QUEUE_URL = "http://127.0.0.1/000000000000/q"
LOST = HTTPClientError


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = start_ministack(tmp_path_factory.mktemp("ministack"))
    yield server
    server.stop()


@pytest.fixture
def aws(emulator: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyAws]:
    with FaultyAws(f"http://{emulator.address}", seed=1) as proxy:
        for name, value in aws_environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def clients(aws: FaultyAws) -> Iterator[dict[Service, Any]]:
    opened: dict[Service, Any] = {
        service: open_client(service.value, ONE_TRY) for service in Service if service is not Service.OTHER
    }
    opened[Service.S3].create_bucket(Bucket="bucket")
    tables = opened[Service.DYNAMODB].list_tables()["TableNames"]
    if "table" not in tables:
        opened[Service.DYNAMODB].create_table(
            TableName="table",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
    opened[Service.SQS].create_queue(QueueName="q")
    opened[Service.SQS].purge_queue(QueueUrl=QUEUE_URL)
    yield opened
    for client in opened.values():
        client.close()


def write(clients: dict[Service, Any], service: Service, name: str) -> None:
    client = clients[service]
    if service is Service.S3:
        client.put_object(Bucket="bucket", Key=name, Body=b"body")
    elif service is Service.DYNAMODB:
        client.put_item(TableName="table", Item={"pk": {"S": name}})
    else:
        client.send_message(QueueUrl=QUEUE_URL, MessageBody=name)


def written(clients: dict[Service, Any], service: Service, name: str) -> bool:
    client = clients[service]
    if service is Service.S3:
        return name in {entry["Key"] for entry in client.list_objects_v2(Bucket="bucket").get("Contents", [])}
    if service is Service.DYNAMODB:
        return "Item" in client.get_item(TableName="table", Key={"pk": {"S": name}})
    messages = client.receive_message(QueueUrl=QUEUE_URL, MaxNumberOfMessages=10, VisibilityTimeout=0)
    return name in {message["Body"] for message in messages.get("Messages", [])}


SERVICES = (Service.S3, Service.DYNAMODB, Service.SQS)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("trouble", "is_done"),
    [
        (Trouble.THROTTLED, False),
        (Trouble.INTERNAL_ERROR, False),
        (Trouble.RESET_BEFORE, False),
        (Trouble.RESET_AFTER, True),
    ],
)
def test_each_trouble_at_each_service(
    aws: FaultyAws, clients: dict[Service, Any], service: Service, trouble: Trouble, is_done: bool
) -> None:
    name = trouble.value
    aws.set_rates(service, Rates(**{trouble.value: 1.0}))
    with pytest.raises((ClientError, LOST)) as caught:
        write(clients, service, name)
    assert aws.injected == {(service, trouble): 1}
    aws.heal()
    assert written(clients, service, name) is is_done
    if isinstance(caught.value, ClientError):
        assert caught.value.response["Error"]["Code"] in {
            "SlowDown",
            "InternalError",
            "ProvisionedThroughputExceededException",
            "InternalServerError",
            "RequestThrottled",
            "InternalFailure",
        }
    else:
        assert trouble in (Trouble.RESET_BEFORE, Trouble.RESET_AFTER)


def test_dynamodb_throttles_a_table_and_an_account_in_turn(aws: FaultyAws, clients: dict[Service, Any]) -> None:
    aws.set_rates(Service.DYNAMODB, Rates(throttled=1.0))
    codes = []
    for _ in range(3):
        with pytest.raises(ClientError) as caught:
            write(clients, Service.DYNAMODB, "x")
        codes.append(caught.value.response["Error"]["Code"])
    first, second = "ProvisionedThroughputExceededException", "ThrottlingException"
    assert codes == [first, second, first]


def test_slow_answers(aws: FaultyAws, clients: dict[Service, Any]) -> None:
    aws.set_rates(Service.S3, Rates(slow=1.0, slow_seconds=0.3))
    began = time.monotonic()
    write(clients, Service.S3, "slow")
    assert time.monotonic() - began >= 0.3
    assert written(clients, Service.S3, "slow")


def test_one_services_trouble_is_not_anothers(aws: FaultyAws, clients: dict[Service, Any]) -> None:
    aws.set_rates(Service.S3, Rates(internal_error=1.0))
    write(clients, Service.DYNAMODB, "fine")
    write(clients, Service.SQS, "fine")
    with pytest.raises(ClientError):
        clients[Service.S3].head_object(Bucket="bucket", Key="none")
    assert {service for service, _ in aws.injected} == {Service.S3}


def test_the_stores_clients_try_again(aws: FaultyAws, clients: dict[Service, Any]) -> None:
    """`open_client` tries twice: one lost answer in a row is not seen."""
    client = open_client("s3")
    try:
        aws.set_rates(Service.S3, Rates(throttled=0.2, reset_after=0.2))
        failures = 0
        for number in range(16):
            try:
                client.put_object(Bucket="bucket", Key=f"try-{number}", Body=b"x")
            except (ClientError, LOST):
                failures += 1
        injected = aws.injected.total()
        assert injected >= 4
        assert failures < injected / 2
    finally:
        client.close()


def test_the_same_seed_makes_the_same_faults(emulator: ServerProcess) -> None:
    def fates(seed: int) -> list[Trouble | None]:
        with FaultyAws(f"http://{emulator.address}", seed=seed) as proxy:
            proxy.set_rates(Service.S3, Rates(throttled=0.3, slow=0.3))
            return [proxy.draw(Service.S3).trouble for _ in range(50)]

    assert fates(3) == fates(3) != fates(4)
    assert set(fates(3)) == {None, Trouble.THROTTLED, Trouble.SLOW}


@pytest.mark.parametrize("shares", [{"throttled": 0.6, "slow": 0.6}, {"throttled": -0.1}])
def test_rates_are_shares(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Rates(**shares)


class Unseekable(io.RawIOBase):
    """A body whose length nobody knows: boto3 sends it in chunks."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


def test_large_bodies_chunks_and_expectations_pass(aws: FaultyAws, clients: dict[Service, Any]) -> None:
    s3, content = clients[Service.S3], random.Random(5).randbytes(3_000_000)
    s3.put_object(Bucket="bucket", Key="whole", Body=content)
    assert s3.get_object(Bucket="bucket", Key="whole")["Body"].read() == content
    s3.put_object(Bucket="bucket", Key="checked", Body=io.BytesIO(content), ChecksumAlgorithm="SHA256")
    assert s3.get_object(Bucket="bucket", Key="checked", ChecksumMode="ENABLED")["Body"].read() == content
    # boto3's manager of transfers sends what cannot be rewound in chunks.
    boto3.client("s3", config=ONE_TRY).upload_fileobj(io.BufferedReader(Unseekable(content)), "bucket", "streamed")
    assert s3.get_object(Bucket="bucket", Key="streamed")["Body"].read() == content
    assert s3.head_object(Bucket="bucket", Key="whole")["ContentLength"] == len(content)
    s3.delete_object(Bucket="bucket", Key="whole")
    assert not written(clients, Service.S3, "whole")
    # Answered by the code alone, without a body.
    with pytest.raises(ClientError) as caught:
        s3.head_object(Bucket="bucket", Key="whole")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_conditional_writes_keep_their_meaning(aws: FaultyAws, clients: dict[Service, Any]) -> None:
    """The answer of the first is lost: the second learns that it is there."""
    aws.set_rates(Service.S3, Rates(reset_after=1.0))
    with pytest.raises(LOST):
        clients[Service.S3].put_object(Bucket="bucket", Key="once", Body=b"1", IfNoneMatch="*")
    aws.heal()
    with pytest.raises(ClientError, match="PreconditionFailed"):
        clients[Service.S3].put_object(Bucket="bucket", Key="once", Body=b"2", IfNoneMatch="*")


def test_connections_are_kept_alive_under_load(aws: FaultyAws, clients: dict[Service, Any]) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(25):
                write(clients, Service.DYNAMODB, f"{number}-{turn}")
        except (ClientError, LOST) as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert aws.requests[Service.DYNAMODB] >= 100
    assert aws.connections < 20
