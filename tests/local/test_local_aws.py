"""The event source mapping on real queues of ministack, with real child processes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from emulated_aws import emulated_aws
from local_fakes import EVENTS, HANDLER_ENV, FakeFunction, LogLines, eventually, raising

from local.errors import QueueCallError, ThrottledError
from local.event_source_mapping import EventSourceMapping, MappingSettings, MappingStatistics
from local.functions import LocalFunction
from local.resources import AwsClients, Queue, Resources, create_resources
from local.sqs import SqsQueue


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsClients]:
    with emulated_aws(tmp_path_factory.mktemp("ministack")) as clients:
        yield clients


@pytest.fixture(scope="module")
def resources(clients: AwsClients) -> Resources:
    return create_resources(clients, function_timeout_seconds=60, batching_window_seconds=5)


@pytest.fixture
def mapped() -> Iterator[list[EventSourceMapping]]:
    started: list[EventSourceMapping] = []
    yield started
    for mapping in started:
        mapping.request_stop()
    for mapping in started:
        assert mapping.stop()


def attributes(clients: AwsClients, queue: Queue) -> dict[str, str]:
    answer = clients.sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["All"])["Attributes"]
    return {str(name): value for name, value in answer.items()}


def start(clients: AwsClients, queue: Queue, function: Any, mapped: list[EventSourceMapping]) -> EventSourceMapping:
    mapping = EventSourceMapping(
        MappingSettings(queue_arn=queue.arn), queue=SqsQueue(clients.sqs, queue.url), function=function, log=print
    )
    mapped.append(mapping)
    mapping.start()
    return mapping


def bodies(clients: AwsClients, queue: Queue) -> list[str]:
    answer = clients.sqs.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10, VisibilityTimeout=0)
    return [message["Body"] for message in answer.get("Messages", [])]


def make_queue(clients: AwsClients, name: str, *, source_of: Queue | None = None, receives: int = 5) -> Queue:
    settings = {"VisibilityTimeout": "1"} | ({"FifoQueue": "true"} if name.endswith(".fifo") else {})
    if source_of is not None:
        settings["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": source_of.arn, "maxReceiveCount": receives})
    url = clients.sqs.create_queue(QueueName=name, Attributes=settings)["QueueUrl"]  # type: ignore[arg-type]
    arn = clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    return Queue(name=name, url=url, arn=arn)


def test_the_resources_are_those_of_the_template(clients: AwsClients, resources: Resources) -> None:
    documents = attributes(clients, resources.documents)
    assert documents["VisibilityTimeout"] == "365"
    redrive = json.loads(documents["RedrivePolicy"])
    assert redrive == {"deadLetterTargetArn": resources.dead_letters.arn, "maxReceiveCount": 10}
    fifo = attributes(clients, resources.documents_fifo)
    assert fifo["FifoQueue"] == "true"
    assert json.loads(fifo["RedrivePolicy"])["deadLetterTargetArn"] == resources.dead_letters_fifo.arn
    assert resources.results.arn == "arn:aws:sqs:us-east-1:000000000000:embakery-results"
    keys = clients.dynamodb.describe_table(TableName=resources.table)["Table"]["KeySchema"]
    assert [(key["AttributeName"], key["KeyType"]) for key in keys] == [("pk", "HASH"), ("sk", "RANGE")]
    clients.s3.head_bucket(Bucket=resources.bucket)


@pytest.mark.parametrize("sample", ["sqs-documents.json", "sqs-fifo.json"])
def test_events_have_the_shape_of_the_sample_events(
    clients: AwsClients, resources: Resources, mapped: list[EventSourceMapping], sample: str
) -> None:
    function, is_fifo = FakeFunction(), sample == "sqs-fifo.json"
    queue = resources.documents_fifo if is_fifo else resources.documents
    fifo: dict[str, Any] = {"MessageGroupId": "g", "MessageDeduplicationId": "d"} if is_fifo else {}
    mapping = start(clients, queue, function, mapped)
    sent = clients.sqs.send_message(
        QueueUrl=queue.url,
        MessageBody="täxt",
        MessageAttributes={
            "text": {"DataType": "String", "StringValue": "a"},
            "bytes": {"DataType": "Binary", "BinaryValue": b"\xff"},
        },
        **fifo,
    )
    eventually(lambda: mapping.statistics.deleted == 1)
    record = function.events[0]["Records"][0]
    like = json.loads((EVENTS / sample).read_text())["Records"][0]
    assert record.keys() == like.keys()
    assert record["attributes"].keys() == like["attributes"].keys()
    assert all(isinstance(value, str) for value in record["attributes"].values())
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert (record["messageId"], record["md5OfBody"]) == (sent["MessageId"], sent["MD5OfMessageBody"])
    assert (record["body"], record["eventSourceARN"], record["awsRegion"]) == ("täxt", queue.arn, "us-east-1")
    assert record["messageAttributes"]["text"]["stringValue"] == "a"
    assert record["messageAttributes"]["text"]["dataType"] == "String"
    assert record["messageAttributes"]["bytes"]["binaryValue"] == base64.b64encode(b"\xff").decode()


def test_what_fails_every_time_ends_in_the_dead_letter_queue_alone(
    clients: AwsClients, mapped: list[EventSourceMapping]
) -> None:
    dead = make_queue(clients, "dead")
    queue = make_queue(clients, "source", source_of=dead, receives=2)
    function = LocalFunction("q", handler="sample_handlers.queue", env=HANDLER_ENV, logs=LogLines())
    try:
        mapping = start(clients, queue, function, mapped)
        for body in ("good", "fail", "good"):
            clients.sqs.send_message(QueueUrl=queue.url, MessageBody=json.dumps(body))
        eventually(lambda: bodies(clients, dead) == ['"fail"'])
        assert mapping.statistics.deleted == 2
        assert mapping.statistics.kept == 2
        assert attributes(clients, queue)["ApproximateNumberOfMessages"] == "0"
        mapping.stop()
    finally:
        function.close()


def test_a_message_that_kills_the_process_does_not_stop_the_queue(
    clients: AwsClients, mapped: list[EventSourceMapping]
) -> None:
    dead = make_queue(clients, "dead-after-crash")
    queue = make_queue(clients, "crashing", source_of=dead, receives=1)
    function = LocalFunction("q", handler="sample_handlers.queue", env=HANDLER_ENV, logs=LogLines())
    try:
        mapping = start(clients, queue, function, mapped)
        clients.sqs.send_message(QueueUrl=queue.url, MessageBody='"kill"')
        eventually(lambda: function.statistics.crashes == 1)
        clients.sqs.send_message(QueueUrl=queue.url, MessageBody='"good"')
        eventually(lambda: bodies(clients, dead) == ['"kill"'])
        eventually(lambda: mapping.statistics.deleted == 1)
        assert function.statistics.cold_starts == 2
        mapping.stop()
    finally:
        function.close()


def test_the_receive_count_is_sqs_own_and_throttling_consumes_it(
    clients: AwsClients, mapped: list[EventSourceMapping]
) -> None:
    dead = make_queue(clients, "dead-unread")
    queue, unlucky = make_queue(clients, "throttled"), make_queue(clients, "unlucky", source_of=dead, receives=1)

    def respond(ids: list[str]) -> None:
        if len(fake.batches) == 1:
            raise ThrottledError("f", "Rate Exceeded.")

    fake = FakeFunction(respond)
    mapping = start(clients, queue, fake, mapped)
    clients.sqs.send_message(QueueUrl=queue.url, MessageBody="a")
    eventually(lambda: mapping.statistics.deleted == 1)
    counts = [event["Records"][0]["attributes"]["ApproximateReceiveCount"] for event in fake.events]
    assert counts == ["1", "2"]
    # With maxReceiveCount 1, a message whose only invocation was throttled is dead without having run.
    start(clients, unlucky, FakeFunction(raising(ThrottledError("f", "Rate Exceeded."))), mapped)
    clients.sqs.send_message(QueueUrl=unlucky.url, MessageBody="b")
    eventually(lambda: bodies(clients, dead) == ["b"])


@pytest.mark.parametrize("name", ["self-deleting", "self-deleting.fifo"])
def test_a_handler_that_deletes_and_hides_messages_itself(
    clients: AwsClients, mapped: list[EventSourceMapping], name: str
) -> None:
    queue = make_queue(clients, name)
    fifo: dict[str, Any] = {"MessageGroupId": "g", "MessageDeduplicationId": "d"} if name.endswith(".fifo") else {}

    def respond(ids: list[str]) -> None:
        handle = fake.events[-1]["Records"][0]["receiptHandle"]
        clients.sqs.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=handle, VisibilityTimeout=60)
        clients.sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=handle)

    fake = FakeFunction(respond)
    mapping = start(clients, queue, fake, mapped)
    clients.sqs.send_message(QueueUrl=queue.url, MessageBody="a", **fifo)
    eventually(lambda: mapping.statistics.already_gone == 1)
    assert mapping.statistics == MappingStatistics(batches=1, already_gone=1)


def test_fifo_order_on_real_queues(clients: AwsClients, mapped: list[EventSourceMapping]) -> None:
    queue = make_queue(clients, "ordered.fifo")
    function = FakeFunction()
    for number in range(12):
        clients.sqs.send_message(
            QueueUrl=queue.url, MessageBody=str(number), MessageGroupId="g", MessageDeduplicationId=str(number)
        )
    mapping = start(clients, queue, function, mapped)
    eventually(lambda: mapping.statistics.deleted == 12)
    seen = [record["body"] for event in function.events for record in event["Records"]]
    assert seen == [str(number) for number in range(12)]


def test_deletes_go_in_tens_and_name_what_stayed(clients: AwsClients) -> None:
    queue = make_queue(clients, "many")
    port = SqsQueue(clients.sqs, queue.url)
    for start_ in (0, 10):
        entries: Any = [{"Id": str(i), "MessageBody": str(start_ + i)} for i in range(10)]
        clients.sqs.send_message_batch(QueueUrl=queue.url, Entries=entries)
    received = port.receive(max_messages=10, wait_seconds=1) + port.receive(max_messages=10, wait_seconds=1)
    assert port.delete(received[:1]) == []
    failures = port.delete(received)
    assert [(failure.message.id, failure.code, failure.retryable) for failure in failures] == [
        (received[0].id, "ReceiptHandleIsInvalid", False)
    ]


def test_a_queue_that_is_not_there_is_a_queue_call_error(clients: AwsClients, resources: Resources) -> None:
    missing = SqsQueue(clients.sqs, resources.documents.url + "-missing")
    with pytest.raises(QueueCallError, match="ReceiveMessage failed"):
        missing.receive(max_messages=1, wait_seconds=0)
