"""FIFO queues: one batch of a group in flight, order within the group over every failure, other groups go on."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from local_fakes import FIFO_ARN, FakeFunction, FakeQueue, eventually, failures, raising, running

from local.errors import FunctionError, InvocationError, ThrottledError


def test_a_group_has_one_batch_in_flight_though_the_handler_returns_messages_early() -> None:
    queue = FakeQueue()
    in_flight: list[str] = []
    overlaps: list[str] = []

    def respond(ids: list[str]) -> Any:
        overlaps.extend(in_flight)
        in_flight.extend(ids)
        first = len(fake.batches) == 1
        if first:
            # As our handler does: failed messages are made visible before the batch is over.
            for id_ in ids:
                queue.make_visible(id_)
            # Another poller has it in hand now.
            eventually(lambda: queue.receive_count("a1") == 2)
        for id_ in ids:
            in_flight.remove(id_)
        return failures(*ids) if first else None

    fake = FakeFunction(respond)
    queue.send("a1", "a2", group="a")
    with running(queue, fake, arn=FIFO_ARN, max_concurrency=3):
        eventually(lambda: len(queue.deleted) == 2)
    assert overlaps == []
    assert fake.batches == [["a1", "a2"], ["a1", "a2"]]


def test_other_groups_go_on_while_one_is_in_flight() -> None:
    release = threading.Event()

    def respond(ids: list[str]) -> None:
        if ids[0].startswith("a"):
            release.wait(10)

    queue = FakeQueue()
    queue.send("a1", group="a")
    with running(queue, FakeFunction(respond), arn=FIFO_ARN, max_concurrency=2):
        eventually(lambda: queue.receive_count("a1") == 1)
        queue.send("a2", group="a")
        queue.send("b1", "b2", group="b")
        eventually(lambda: queue.deleted == ["b1", "b2"])
        # SQS itself gives out nothing more of a group with messages in flight.
        assert queue.receive_count("a2") == 0
        release.set()
        eventually(lambda: queue.deleted == ["b1", "b2", "a1", "a2"])


def test_a_batch_may_hold_several_groups_each_in_order() -> None:
    queue, function = FakeQueue(), FakeFunction()
    for number in range(3):
        queue.send(f"a{number}", group="a")
        queue.send(f"b{number}", group="b")
    with running(queue, function, arn=FIFO_ARN):
        eventually(lambda: len(queue.deleted) == 6)
    assert function.batches == [["a0", "b0", "a1", "b1", "a2", "b2"]]


def test_order_holds_after_a_partial_failure() -> None:
    queue = FakeQueue(visibility_seconds=0.05)
    fake = FakeFunction(lambda ids: failures("a2", "a3") if len(fake.batches) == 1 else None)
    queue.send("a1", "a2", "a3", group="a")
    with running(queue, fake, arn=FIFO_ARN, max_concurrency=2):
        eventually(lambda: len(queue.deleted) == 3)
    assert queue.deleted == ["a1", "a2", "a3"]


@pytest.mark.parametrize(
    "error", [FunctionError("f", error_type="E", error_message=""), ThrottledError("f", "Rate Exceeded.")]
)
def test_order_holds_over_failed_and_throttled_invocations(error: InvocationError) -> None:
    queue = FakeQueue(visibility_seconds=0.05)
    fake = FakeFunction(lambda ids: raising(error)(ids) if len(fake.batches) < 3 else None)
    queue.send("a1", "a2", "a3", group="a")
    with running(queue, fake, arn=FIFO_ARN, batch_size=2, max_concurrency=3):
        eventually(lambda: len(queue.deleted) == 3)
    assert queue.deleted == ["a1", "a2", "a3"]
    assert fake.batches == [["a1", "a2"], ["a1", "a2"], ["a1", "a2"], ["a3"]]


@pytest.mark.parametrize("trouble", ["failed", "throttled", "not deleted"])
def test_what_waits_for_the_next_batch_does_not_overtake_what_failed(trouble: str) -> None:
    """Ten large messages come in one receive and go in two batches: the second must not run before the first did."""

    def respond(ids: list[str]) -> Any:
        if len(fake.batches) > 1 or trouble == "not deleted":
            return None
        if trouble == "throttled":
            raise ThrottledError("f", "Rate Exceeded.")
        return failures(*(id_ for id_ in ids if id_.startswith("a")))

    queue, fake = FakeQueue(visibility_seconds=0.5), FakeFunction(respond)
    if trouble == "not deleted":
        queue.delete_failures = {"a1": ["InvalidParameterValue"]}
    queue.send("a1", "a2", "a3", group="a", body="x" * 1_500_000)
    queue.send("b1", group="b", body="x" * 1_000_000)
    queue.send("a4", group="a", body="x" * 1_500_000)
    queue.send("b2", group="b", body="x" * 1_000_000)
    with running(queue, fake, arn=FIFO_ARN) as mapping:
        eventually(lambda: queue.left == [])
        assert mapping.statistics.already_gone == 0
    first_a4 = next(index for index, batch in enumerate(fake.batches) if "a4" in batch)
    assert sum("a1" in batch for batch in fake.batches[: first_a4 + 1]) == 2
    if trouble == "failed":
        # Group b succeeded and goes on.
        assert fake.batches[:2] == [["a1", "a2", "a3", "b1"], ["b2"]]


def test_the_groups_of_a_standard_queue_promise_no_order() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send(*(f"a{number}" for number in range(8)), group="a", body="x" * 1_000_000)
    function.respond = lambda ids: failures(*ids) if len(function.batches) == 1 else None
    with running(queue, function):
        eventually(lambda: len(function.batches) == 2)
    assert function.batches[1] == ["a6", "a7"]
