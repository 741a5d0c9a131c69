"""A dead-letter queue on a real SQS emulator: what is sent there, what is read there, what is sent on."""

from __future__ import annotations

import base64
import json
import logging
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

import storage.letters
from embakery.dead_letters import DeadLetter, DeadLetters
from local.resources import AwsClients
from storage.clients import CONVENIENCE
from storage.dead_letters import FAILURE_ATTRIBUTE, Failure, SqsDeadLetters
from storage.letters import Hand, Letter, letters
from storage.parcels import MAX_BYTES
from storage.redrive import Mover

CANARY = "the canary sings at midnight"


@dataclass(frozen=True, slots=True)
class QueueUnderTest:
    sqs: Any
    url: str

    def drain(self) -> list[dict[str, Any]]:
        """Take everything away that is visible."""
        taken: list[dict[str, Any]] = []
        while messages := self.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        ).get("Messages", []):
            taken += messages
            for message in messages:
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return taken

    def bodies(self) -> list[str]:
        return [message["Body"] for message in self.drain()]

    def counts(self) -> tuple[int, int]:
        """Messages that are visible, and that are hidden."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        said = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(said[names[0]]), int(said[names[1]])


def make_queue(clients: AwsClients, *, fifo: bool = False, **attributes: str) -> QueueUnderTest:
    name = uuid.uuid4().hex + (".fifo" if fifo else "")
    more: dict[Any, str] = {**attributes, **({"FifoQueue": "true"} if fifo else {})}
    return QueueUnderTest(clients.sqs, clients.sqs.create_queue(QueueName=name, Attributes=more)["QueueUrl"])


@pytest.fixture
def queue(aws: AwsClients) -> QueueUnderTest:
    return make_queue(aws)


@pytest.fixture
def fifo(aws: AwsClients) -> QueueUnderTest:
    return make_queue(aws, fifo=True)


def letter(number: int = 0, *, body: str = "{}", **more: Any) -> DeadLetter:
    values: dict[str, Any] = {"code": "invalid_request", "reason": "documents[0].id: is missing", "receive_count": 1}
    return DeadLetter(message_id=f"message-{number}", body=body, **{**values, **more})


def text_attribute(value: str) -> dict[str, Any]:
    """An attribute as Lambda's events have it."""
    return {"stringValue": value, "stringListValues": [], "binaryListValues": [], "dataType": "String"}


def send(queue: QueueUnderTest, *sent: DeadLetter) -> frozenset[str]:
    port: DeadLetters = SqsDeadLetters(queue.sqs, queue_url=queue.url)
    return port.send(sent)


def read(queue: QueueUnderTest, limit: int | None = None) -> list[Letter]:
    with closing(letters(queue.sqs, queue.url, limit)) as found:
        return list(found)


def move(source: QueueUnderTest, target: QueueUnderTest, *, per_second: int | None = None, **how: Any) -> Mover:
    with Hand(source.sqs, source.url) as hand:
        mover = Mover(source.sqs, hand, target.url, per_second=per_second)
        mover.move(**{"wanted": lambda _: True, "stop": lambda: False, **how})
    return mover


def test_a_letter_arrives_as_it_was_with_its_reason(queue: QueueUnderTest) -> None:
    body = '{"v": 1,\t"documents": [ {"id":"ü \U0001f600","text":"  spaces\\n"} ]}\r\n'
    attributes = {
        "trace": text_attribute("abc"),
        "count": {"stringValue": "7", "dataType": "Number.int"},
        "blob": {"binaryValue": base64.b64encode(b"\x00\xff").decode(), "dataType": "Binary.png"},
    }
    assert send(queue, letter(body=body, receive_count=3, attributes=attributes)) == {"message-0"}
    (message,) = queue.drain()
    assert message["Body"] == body
    failure = json.loads(message["MessageAttributes"].pop(FAILURE_ATTRIBUTE)["StringValue"])
    age = datetime.now(UTC) - datetime.fromisoformat(failure.pop("failed_at"))
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert failure == {
        "code": "invalid_request",
        "reason": "documents[0].id: is missing",
        "message_id": "message-0",
        "receives": 3,
    }
    assert message["MessageAttributes"] == {
        "trace": {"DataType": "String", "StringValue": "abc"},
        "count": {"DataType": "Number.int", "StringValue": "7"},
        "blob": {"DataType": "Binary.png", "BinaryValue": b"\x00\xff"},
    }


def test_any_number_of_letters_is_sent_by_tens_and_by_a_mebibyte(queue: QueueUnderTest) -> None:
    small = [letter(number) for number in range(23)]
    large = [letter(number, body="ü" * 200_000) for number in range(23, 30)]
    assert send(queue, *small, *large) == {f"message-{number}" for number in range(30)}
    assert queue.counts() == (30, 0)


def test_what_leaves_no_room_for_the_reason_goes_the_long_way(
    queue: QueueUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    ten = {f"a{number}": text_attribute("x") for number in range(10)}
    full = letter(1, body="x" * MAX_BYTES)
    broken = letter(2, attributes={"a": {"dataType": "Binary", "binaryValue": "not base64!"}})
    nine = {name: ten[name] for name in list(ten)[:9]}
    assert send(queue, letter(0, attributes=ten), full, broken, letter(3, attributes=nine)) == {"message-3"}
    assert queue.counts() == (1, 0)
    (record,) = caplog.records
    assert (record.getMessage(), vars(record)["letters"], vars(record)["reasons"]) == (
        "dead_letters_not_sent",
        3,
        ["does_not_fit"],
    )


def test_the_last_byte_counts(queue: QueueUnderTest) -> None:
    attributes = {"nameü": text_attribute("ü" * 50)}
    send(queue, letter(body="x", attributes=attributes))
    (message,) = queue.drain()
    failure = message["MessageAttributes"][FAILURE_ATTRIBUTE]["StringValue"]
    ours = sum(map(len, (FAILURE_ATTRIBUTE, "String", failure)))
    room = MAX_BYTES - ours - (6 + len("String") + 100)
    assert send(queue, letter(body="x" * room, attributes=attributes)) == {"message-0"}
    assert send(queue, letter(body="x" * (room + 1), attributes=attributes)) == frozenset()


def test_a_reason_is_cut_and_made_of_what_sqs_takes(queue: QueueUnderTest) -> None:
    assert send(queue, letter(reason="\x00\x1b[31m\ud800\uffff" + "é\U0001f600" * 1000)) == {"message-0"}
    (found,) = read(queue)
    assert found.failure is not None
    assert found.reason == ("\ufffd\ufffd[31m\ufffd\ufffd" + "é\U0001f600" * 1000)[:1000]


def test_a_second_failure_replaces_the_first(queue: QueueUnderTest) -> None:
    """A message move task leaves the attribute on: it neither counts against the ten nor stays."""
    attributes = {f"a{number}": text_attribute("x") for number in range(9)}
    stale = attributes | {FAILURE_ATTRIBUTE: text_attribute("stale")}
    assert send(queue, letter(code="too_large", attributes=stale)) == {"message-0"}
    (found,) = read(queue)
    assert found.code == "too_large"


def test_a_fifo_queue_keeps_the_group_and_knows_the_message(fifo: QueueUnderTest) -> None:
    sent = [letter(number, group_id="g") for number in range(12)]
    assert len(send(fifo, *sent)) == 12
    assert len(send(fifo, *sent)) == 12
    system = [message["Attributes"] for message in fifo.drain()]
    assert [(each["MessageGroupId"], each["MessageDeduplicationId"]) for each in system] == [
        ("g", f"message-{number}") for number in range(12)
    ]


def test_only_what_was_surely_taken_is_returned(caplog: pytest.LogCaptureFixture) -> None:
    client = boto3.client("sqs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    answer = {
        "Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "x"}],
        "Failed": [{"Id": "1", "SenderFault": False, "Code": "InternalError", "Message": CANARY}],
    }
    with Stubber(client) as stub:
        stub.add_response("send_message_batch", answer)
        taken = SqsDeadLetters(client, queue_url="https://queue").send([letter(n, body=CANARY) for n in range(3)])
        stub.add_client_error("send_message_batch", "RequestThrottled", CANARY)
        # The second batch is not tried.
        nothing = SqsDeadLetters(client, queue_url="https://queue").send([letter(n) for n in range(11)])
    client.close()
    assert taken == {"message-0"}
    assert nothing == frozenset()
    assert [(vars(record)["letters"], vars(record)["reasons"]) for record in caplog.records] == [
        (2, ["InternalError"]),
        (11, ["RequestThrottled"]),
    ]
    assert CANARY not in str([vars(record) for record in caplog.records])


def test_an_unreachable_queue_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        # Bound, but nobody listens: the connection is refused.
        taken.bind(("127.0.0.1", 0))
        client = boto3.client(
            "sqs",
            endpoint_url=f"http://127.0.0.1:{taken.getsockname()[1]}",
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
            config=CONVENIENCE,
        )
        started = time.monotonic()
        sent = [letter(number, body=CANARY) for number in range(30)]
        assert SqsDeadLetters(client, queue_url="http://127.0.0.1/0/queue").send(sent) == frozenset()
        client.close()
    assert time.monotonic() - started < 5
    (record,) = caplog.records
    assert (record.name, record.levelno, vars(record)["reasons"]) == (
        "embakery",
        logging.WARNING,
        ["EndpointConnectionError"],
    )
    assert CANARY not in str(vars(record))


def test_a_missing_queue_raises_nothing(aws: AwsClients, caplog: pytest.LogCaptureFixture) -> None:
    absent = aws.sqs.meta.endpoint_url + "/000000000000/absent"
    assert SqsDeadLetters(aws.sqs, queue_url=absent).send([letter()]) == frozenset()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("count", [0, 1, 37])
def test_reading_gives_each_once_and_everything_back(queue: QueueUnderTest, count: int) -> None:
    send(queue, *(letter(number, body=CANARY) for number in range(count)))
    found = read(queue)
    assert sorted(each.original_id for each in found) == sorted(f"message-{number}" for number in range(count))
    assert queue.counts() == (count, 0)
    assert CANARY not in repr(found)
    assert all(each.size == len(CANARY) for each in found)


def test_a_limit_is_not_exceeded(queue: QueueUnderTest) -> None:
    send(queue, *(letter(number) for number in range(25)))
    assert len(read(queue, 12)) == 12
    assert queue.counts() == (25, 0)


def test_of_a_group_only_the_first_ten_can_be_read(fifo: QueueUnderTest) -> None:
    send(fifo, *(letter(number, group_id="g") for number in range(15)))
    assert [each.original_id for each in read(fifo)] == [f"message-{number}" for number in range(10)]
    assert fifo.counts() == (15, 0)


def test_leaving_early_gives_everything_back(queue: QueueUnderTest) -> None:
    send(queue, *(letter(number) for number in range(25)))

    def interrupted() -> Iterator[Letter]:
        with closing(letters(queue.sqs, queue.url)) as found:
            for number, each in enumerate(found):
                yield each
                if number == 14:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(interrupted())
    assert queue.counts() == (25, 0)


def test_messages_whose_hold_ran_out_are_read_once_and_the_reading_ends(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.letters, "HOLD_SECONDS", 0)
    send(queue, *(letter(number) for number in range(25)))
    assert len(read(queue)) == 10


def test_what_is_new_is_found_behind_messages_whose_hold_ran_out(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(queue, *(letter(number) for number in range(50)))
    monkeypatch.setattr(storage.letters, "HOLD_SECONDS", 1)
    names = []
    with closing(letters(queue.sqs, queue.url)) as found:
        for each in found:
            names.append(each.original_id)
            if len(names) == 40:
                time.sleep(1.1)
    assert sorted(names) == sorted(f"message-{number}" for number in range(50))


def test_what_sqs_moved_says_so_and_from_where(aws: AwsClients, queue: QueueUnderTest) -> None:
    arn = aws.sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
    source = make_queue(aws, RedrivePolicy=policy, VisibilityTimeout="0")
    stale = json.dumps(Failure("too_large", "old", "old", 1, "2026-01-01T00:00:00+00:00").to_json())
    source.sqs.send_message(
        QueueUrl=source.url,
        MessageBody="{}",
        MessageAttributes={FAILURE_ATTRIBUTE: {"DataType": "String", "StringValue": stale}},
    )
    for _ in range(2):
        source.sqs.receive_message(QueueUrl=source.url)
    (found,) = read(queue)
    assert (found.failure, found.code, found.reason) == (None, "moved", "moved by the queue after its last receive")
    assert found.source_arn is not None
    assert found.source_arn.endswith(source.url.rsplit("/", 1)[-1])
    assert found.receive_count >= 2
    assert found.first_received is not None


@pytest.mark.parametrize(
    "attribute", ["", "[]", "null", '{"code": 1}', "[" * 5000, json.dumps({"code": "a", "reason": "b", "receives": 1})]
)
def test_a_reason_that_is_not_ours_is_none(queue: QueueUnderTest, attribute: str) -> None:
    value = {FAILURE_ATTRIBUTE: {"DataType": "String", "StringValue": attribute}} if attribute else {}
    queue.sqs.send_message(QueueUrl=queue.url, MessageBody="{}", MessageAttributes=value)
    (found,) = read(queue)
    assert (found.failure, found.code, found.reason) == (None, "unknown", "sent here without a reason")


def test_moving_keeps_everything_but_the_reason(aws: AwsClients, queue: QueueUnderTest) -> None:
    target = make_queue(aws)
    attributes = {
        "trace": text_attribute("abc"),
        "blob": {"binaryValue": base64.b64encode(b"\x00\xff").decode(), "dataType": "Binary"},
    }
    send(queue, *(letter(number, body=f'{{"n": "ü{number}"}}', attributes=attributes) for number in range(25)))
    assert move(queue, target).counts.moved == 25
    messages = target.drain()
    assert sorted(message["Body"] for message in messages) == sorted(f'{{"n": "ü{number}"}}' for number in range(25))
    assert all(set(message["MessageAttributes"]) == {"trace", "blob"} for message in messages)
    assert queue.counts() == (0, 0)


def test_what_is_not_wanted_stays_and_is_visible(aws: AwsClients, queue: QueueUnderTest) -> None:
    target = make_queue(aws)
    send(queue, *(letter(number, code="ab"[number % 2]) for number in range(30)))
    counts = move(queue, target, wanted=lambda each: each.code == "a", limit=11).counts
    assert (counts.moved, queue.counts(), target.counts()) == (11, (19, 0), (11, 0))


def test_large_messages_are_moved_a_mebibyte_at_a_time(aws: AwsClients, queue: QueueUnderTest) -> None:
    target = make_queue(aws)
    send(queue, *(letter(number, body="x" * 500_000) for number in range(5)))
    assert move(queue, target).counts.moved == 5
    assert target.counts() == (5, 0)


def test_order_within_a_group_is_kept(aws: AwsClients, fifo: QueueUnderTest) -> None:
    target = make_queue(aws, fifo=True)
    sent = [letter(number, body=f"{number}", group_id=f"g{number % 3}") for number in range(30)]
    send(fifo, *sent)
    assert move(fifo, target).counts.moved == 30
    messages = target.drain()
    for group in range(3):
        own = [m["Body"] for m in messages if m["Attributes"]["MessageGroupId"] == f"g{group}"]
        assert own == [str(number) for number in range(group, 30, 3)]


def test_a_second_run_within_five_minutes_sends_nothing_twice_to_a_fifo_queue(aws: AwsClients) -> None:
    """As after a kill between sending and deleting: the letter is still there."""
    target = make_queue(aws, fifo=True)
    for _ in range(2):
        source = make_queue(aws, fifo=True)
        send(source, letter(group_id="g"))
        assert move(source, target).counts.moved == 1
    assert len(target.drain()) == 1


class Refusing:
    """A client whose SendMessageBatch refuses one body, as SQS does: entry by entry."""

    def __init__(self, sqs: Any, body: str) -> None:
        self._sqs = sqs
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sqs, name)

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803
        good = [entry for entry in Entries if entry["MessageBody"] != self._body]
        answer = self._sqs.send_message_batch(QueueUrl=QueueUrl, Entries=good) if good else {"Successful": []}
        bad = [entry["Id"] for entry in Entries if entry["MessageBody"] == self._body]
        return answer | {"Failed": [{"Id": name, "Code": "InternalError", "SenderFault": False} for name in bad]}


def test_what_fails_stays_and_nothing_of_its_group_overtakes_it(aws: AwsClients, fifo: QueueUnderTest) -> None:
    target = make_queue(aws, fifo=True)
    send(fifo, *(letter(number, body=f"{number}", group_id=f"g{number % 2}") for number in range(10)))
    with Hand(aws.sqs, fifo.url) as hand:
        mover = Mover(Refusing(aws.sqs, "4"), hand, target.url)  # type: ignore[arg-type]
        mover.move(wanted=lambda _: True, stop=lambda: False)
    assert (mover.counts.moved, mover.counts.failed, mover.counts.reasons) == (7, 3, {"InternalError"})
    assert sorted(target.bodies()) == ["0", "1", "2", "3", "5", "7", "9"]
    assert fifo.bodies() == ["4", "6", "8"]


def test_an_unknown_target_takes_nothing_and_nothing_is_lost(aws: AwsClients, queue: QueueUnderTest) -> None:
    send(queue, *(letter(number) for number in range(25)))
    absent = QueueUnderTest(aws.sqs, queue.url + "-absent")
    counts = move(queue, absent).counts
    assert (counts.moved, counts.failed, len(counts.reasons)) == (0, 10, 1)
    assert queue.counts() == (25, 0)


def test_stopping_between_batches_gives_the_rest_back(aws: AwsClients, queue: QueueUnderTest) -> None:
    target = make_queue(aws)
    send(queue, *(letter(number) for number in range(30)))
    asked = iter([False, False, False, True])
    move(queue, target, stop=lambda: next(asked, True))
    assert (queue.counts(), target.counts()) == ((20, 0), (10, 0))


def test_the_rate_is_kept(aws: AwsClients, queue: QueueUnderTest) -> None:
    target = make_queue(aws)
    send(queue, *(letter(number) for number in range(12)))
    started = time.monotonic()
    assert move(queue, target, per_second=10).counts.moved == 12
    # One second's worth at once, the rest after it.
    assert time.monotonic() - started >= 1.0
