"""The duplicating queue, and the event source mapping behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from delivery import DuplicatingQueue
from emulated_aws import emulated_aws

from local.event_source_mapping import EventSourceMapping, MappingSettings
from local.in_process import InProcessFunction
from local.resources import AwsClients
from local.sqs import Message, SqsQueue


class Source:
    """Gives out numbered messages for ever, or as many as there are."""

    def __init__(self, count: int = 10_000, **attributes: str) -> None:
        self.asked: list[tuple[int, int]] = []
        self.deleted: list[str] = []
        self._left = [Message(str(number), f"handle-{number}", "{}", "md5", attributes) for number in range(count)]

    def receive(self, *, max_messages: int, wait_seconds: int) -> list[Message]:
        self.asked.append((max_messages, wait_seconds))
        given, self._left = self._left[:max_messages], self._left[max_messages:]
        return given

    def delete(self, messages: Any) -> list[Any]:
        self.deleted += [message.id for message in messages]
        return []


def ids(messages: list[Message]) -> list[str]:
    return [message.id for message in messages]


def test_no_share_changes_nothing() -> None:
    source = Source()
    queue = DuplicatingQueue(source, 1, 0.0)
    assert ids(queue.receive(max_messages=10, wait_seconds=1)) == [str(number) for number in range(10)]
    assert source.asked == [(10, 1)]
    assert queue.duplicated == 0


def test_a_share_comes_twice_at_once_or_in_the_next_receive() -> None:
    queue = DuplicatingQueue(Source(), 1, 0.3)
    batches = [queue.receive(max_messages=10, wait_seconds=0) for _ in range(200)]
    assert max(len(batch) for batch in batches) == 10
    counts: dict[str, int] = {}
    for message in (message for batch in batches for message in batch):
        counts[message.id] = counts.get(message.id, 0) + 1
    assert set(counts.values()) == {1, 2}
    assert queue.duplicated == sum(count == 2 for count in counts.values())
    assert 0.25 < queue.duplicated / len(counts) < 0.35
    at_once = sum(len(batch) - len(set(ids(batch))) for batch in batches)
    assert 0 < at_once < queue.duplicated


def test_a_copy_is_the_original_to_the_letter() -> None:
    queue = DuplicatingQueue(Source(1), 1, 1.0)
    first = queue.receive(max_messages=1, wait_seconds=1)
    second = queue.receive(max_messages=1, wait_seconds=1)
    assert second == first
    assert queue.receive(max_messages=1, wait_seconds=1) == []


def test_copies_are_served_without_waiting_for_more() -> None:
    source = Source(1)
    queue = DuplicatingQueue(source, 1, 1.0)
    queue.receive(max_messages=1, wait_seconds=20)
    assert len(queue.receive(max_messages=10, wait_seconds=20)) == 1
    assert source.asked == [(1, 20), (8, 0)]


def test_deleting_the_original_drops_a_copy_still_to_come() -> None:
    source = Source(1)
    queue = DuplicatingQueue(source, 1, 1.0)
    queue.delete(queue.receive(max_messages=1, wait_seconds=0))
    assert queue.receive(max_messages=10, wait_seconds=0) == []
    assert source.deleted == ["0"]
    assert queue.duplicated == 0


def test_the_seed_decides() -> None:
    def delivered(seed: int) -> list[list[str]]:
        queue = DuplicatingQueue(Source(), seed, 0.3)
        return [ids(queue.receive(max_messages=10, wait_seconds=0)) for _ in range(20)]

    assert delivered(1) == delivered(1) != delivered(2)


def test_a_fifo_copy_stands_next_to_its_original() -> None:
    queue = DuplicatingQueue(Source(SequenceNumber="1", MessageGroupId="g"), 1, 0.3)
    order = [id_ for _ in range(100) for id_ in ids(queue.receive(max_messages=10, wait_seconds=0))]
    assert order == sorted(order, key=int)
    assert queue.duplicated == len(order) - len(set(order)) > 0


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsClients]:
    with emulated_aws(tmp_path_factory.mktemp("ministack")) as clients:
        yield clients


@pytest.mark.parametrize("name", ["doubled", "doubled.fifo"])
def test_the_mapping_gets_every_message_through(clients: AwsClients, name: str) -> None:
    """On real queues: nothing is lost, nothing counts as a failed delete, and FIFO groups keep their order."""
    is_fifo = name.endswith(".fifo")
    attributes: Any = {"VisibilityTimeout": "60"} | ({"FifoQueue": "true"} if is_fifo else {})
    url = clients.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    for number in range(60):
        group: Any = {"MessageGroupId": f"g{number % 3}", "MessageDeduplicationId": str(number)} if is_fifo else {}
        clients.sqs.send_message(QueueUrl=url, MessageBody=str(number), **group)
    seen: list[int] = []
    lock = threading.Lock()

    def handler(event: Any, context: Any) -> None:
        with lock:
            seen.extend(int(record["body"]) for record in event["Records"])
        time.sleep(0.02)

    queue = DuplicatingQueue(SqsQueue(clients.sqs, url), 1, 0.3)
    mapping = EventSourceMapping(
        MappingSettings(queue_arn=f"arn:aws:sqs:us-east-1:000000000000:{name}", batch_size=5, max_concurrency=3),
        queue=queue,
        function=InProcessFunction("f", handler=handler, concurrency=3),
        log=lambda line: seen.append(-1),
    )
    mapping.start()
    deadline = time.monotonic() + 30
    while mapping.statistics.deleted < 60 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mapping.stop()
    counts = mapping.statistics
    assert (counts.deleted, counts.failed_deletes, counts.kept) == (60, 0, 0)
    # A copy is handed out while its original is in flight, so every one of them was delivered or dropped with it.
    assert counts.already_gone == queue.duplicated > 0
    assert len(seen) == 60 + queue.duplicated
    assert set(seen) == set(range(60))
    if is_fifo:
        groups = [[number for number in seen if number % 3 == group] for group in range(3)]
        assert groups == [sorted(group) for group in groups]
